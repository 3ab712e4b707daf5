//! `tidegate keys`: virtual keys of a running Tidegate, through its admin port.

use std::process::ExitCode;
use std::time::Duration;

use http::Method;
use serde::Deserialize;
use serde_json::Value;
use tidegate_admin::client::{Client, ClientError};
use tidegate_admin::keys::CreatedKey;
use tidegate_admin::status::keys_table;
use tidegate_gateway::view::VirtualKeyView;
use tidegate_keys::account::{KeyRequest, KeyUpdate, Limits, LimitsUpdate};

use crate::check::print;
use crate::cli::{CreateKey, Keys, KeysCommand, UpdateKey};
use crate::status::running;

/// Time for one answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Runs the command.
pub(crate) fn run(options: &Keys) -> ExitCode {
    let (admin, token) = match running(&options.running) {
        Ok(found) => found,
        Err(code) => return code,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let mut client = Client::new(admin, token, TIMEOUT);
    match runtime.block_on(command(&mut client, options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn command(client: &mut Client, options: &Keys) -> Result<(), ClientError> {
    match &options.command {
        KeysCommand::Create(key) => {
            let request = request(key);
            let made = client
                .send(Method::POST, "/api/v1/keys", Some(&request))
                .await?;
            created(made, options.json);
        }
        KeysCommand::List if options.json => raw(client, "/api/v1/keys").await?,
        KeysCommand::List => {
            let listed: Listed = client.get("/api/v1/keys").await?;
            print(&keys_table(&listed.keys));
        }
        KeysCommand::Show { id } if options.json => raw(client, &path(id)).await?,
        KeysCommand::Show { id } => {
            let key: VirtualKeyView = client.get(&path(id)).await?;
            print(&keys_table(&[key]));
        }
        KeysCommand::Update(key) => {
            let update = update(key);
            let path = path(&key.id);
            let changed: VirtualKeyView = client.send(Method::PATCH, &path, Some(&update)).await?;
            match options.json {
                true => print(&format!("{}\n", serde_json::json!(changed))),
                false => print(&keys_table(&[changed])),
            }
        }
        KeysCommand::Revoke { id } => {
            let gone: VirtualKeyView = client.send(Method::DELETE, &path(id), None::<&()>).await?;
            match options.json {
                true => print(&format!("{}\n", serde_json::json!(gone))),
                false => print(&format!("revoked {} ({})\n", gone.id, gone.name)),
            }
        }
    }
    Ok(())
}

fn path(id: &str) -> String {
    // An id has letters, digits and a dash; anything else shall not become another path.
    let id: String = id
        .bytes()
        .map(|b| match b.is_ascii_alphanumeric() || b == b'-' {
            true => char::from(b).to_string(),
            false => format!("%{b:02X}"),
        })
        .collect();
    format!("/api/v1/keys/{id}")
}

fn request(key: &CreateKey) -> KeyRequest {
    KeyRequest {
        name: key.name.clone(),
        limits: Limits {
            models: key.models.clone(),
            requests_per_minute: key.requests_per_minute,
            tokens_per_minute: key.tokens_per_minute,
            budgets: key
                .budget
                .iter()
                .chain(&key.token_budget)
                .copied()
                .collect(),
        },
        expires_in: key.expires_in.map(|time| time.as_secs()),
    }
}

/// What is to change. Budgets that are not named stay.
fn update(key: &UpdateKey) -> KeyUpdate {
    let limits = LimitsUpdate {
        models: key.models.as_deref().map(|models| match models {
            [all] if all == "*" => None,
            models => Some(models.to_vec()),
        }),
        requests_per_minute: key.requests_per_minute.map(|count| count.0),
        tokens_per_minute: key.tokens_per_minute.map(|count| count.0),
        budgets: None,
        change_budgets: key
            .budget
            .iter()
            .chain(&key.token_budget)
            .copied()
            .collect(),
    };
    KeyUpdate {
        name: key.name.clone(),
        limits,
        expires_in: key.expires_in.map(|end| end.0.map(|time| time.as_secs())),
    }
}

/// The token alone on stdout, so that it can be put where it belongs; what else there is to say on stderr.
fn created(made: CreatedKey, json: bool) {
    if json {
        print(&format!("{}\n", serde_json::json!(made)));
        return;
    }
    eprintln!(
        "{} ({}) is made. Its token is shown this once: the store has only its hash.",
        made.key.id, made.key.name
    );
    print(&format!("{}\n", made.token));
}

/// The API's own answer, as it came.
async fn raw(client: &mut Client, path: &str) -> Result<(), ClientError> {
    let answer: Value = client.get(path).await?;
    print(&format!("{answer}\n"));
    Ok(())
}

/// The part of `/api/v1/keys` that is shown.
#[derive(Deserialize)]
struct Listed {
    keys: Vec<VirtualKeyView>,
}
