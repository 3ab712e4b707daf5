//! Calls a method of a model: `call ADDRESS METHOD [KWARGS [FILE]]`, for example `call 127.0.0.1:50051 predict '{"text": "lovely"}'`.
//!
//! Prints each result as a line of JSON; how far an upload is, and the method, to stderr.

use std::process::ExitCode;

use serde_json::Value;
use tidegate_client::{Client, Error, Input};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let (Some(address), Some(method)) = (words.first(), words.get(1)) else {
        eprintln!("usage: call ADDRESS METHOD [KWARGS [FILE]]");
        return ExitCode::from(2);
    };
    let kwargs = words.get(2).map_or("{}", String::as_str);
    match call(address, method, kwargs, words.get(3)).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn call(
    address: &str,
    method: &str,
    kwargs: &str,
    file: Option<&String>,
) -> Result<(), Error> {
    let kwargs: Value =
        serde_json::from_str(kwargs).map_err(|error| Error::Arguments(error.to_string()))?;
    let mut call = Client::new([address])?.call(method).kwargs(&kwargs);
    if let Some(file) = file {
        call = call
            .input(Input::path(file))
            .on_upload(|sent, all| eprint!("\r{sent} of {} bytes", all.unwrap_or(sent)));
    }
    let mut items = call
        .on_progress(|told| {
            let percent = told.progress.unwrap_or_default() * 100.0;
            eprintln!(
                "{percent:.0}% {}",
                told.message.as_deref().unwrap_or_default()
            );
        })
        .stream();
    while let Some(item) = items.next().await {
        println!("{}", item?.value);
    }
    Ok(())
}
