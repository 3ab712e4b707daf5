//! Higress's ai-proxy: `provider`, or `providers` with `activeProviderId`, and rules that override them.
//!
//! The semantics are those of its sources: the first rule that fits decides, and takes the global configuration's providers over unless it
//! has some of its own; a rule (or the global part) that names no active provider lets requests pass as they are.

mod address;
mod failover;
mod provider;
mod rules;

use super::Cx;
use super::reader::{self, Section};
use super::text::Yaml;
use crate::diagnostic::Diagnostics;
use crate::node::{Kind, Node};
use provider::Converted;
use rules::{Criteria, Rule};

/// One plugin configuration: what holds everywhere, and what holds where a rule fits.
struct Plugin<'a> {
    global: Option<Section<'a>>,
    rules: Vec<Rule<'a>>,
}

/// Our configuration of everything that the documents hold.
pub(super) fn config(documents: &[Node], cx: &mut Cx<'_>) -> Result<Yaml, Diagnostics> {
    let mut plugins = Vec::new();
    for document in documents {
        find(document, &mut plugins, cx);
    }
    if plugins.is_empty() {
        return Err(reader::failure(
            "no configuration of ai-proxy",
            "give the plugin's configuration (`provider:`, or `providers:` and `activeProviderId:`) or its WasmPlugin object",
            cx.sources,
        ));
    }
    let mut all = All::default();
    for plugin in &plugins {
        all.plugin(plugin, cx);
    }
    let listener = Yaml::map([
        ("name", Yaml::text("main")),
        ("address", Yaml::text("127.0.0.1:8080")),
    ]);
    cx.note_once(
        documents[0].span,
        "listeners are no part of a plugin's configuration: 127.0.0.1:8080 is a beginning",
    );
    let mut config = vec![("listeners".to_owned(), Yaml::List(vec![listener]))];
    for (key, list) in [("routes", all.routes()), ("providers", all.providers())] {
        if !list.is_empty() {
            config.push((key.to_owned(), Yaml::List(list)));
        }
    }
    Ok(Yaml::Map(config))
}

/// Plugin configurations in a document.
fn find<'a>(document: &'a Node, plugins: &mut Vec<Plugin<'a>>, cx: &mut Cx<'_>) {
    let Some(section) = Section::of(document) else {
        if !matches!(document.kind, Kind::Null) {
            cx.note(
                document.span,
                "no mapping, and so no plugin's configuration: left out",
            );
        }
        return;
    };
    match section.text("kind") {
        Some("List") => {
            let items = section.get("items").map(Node::items);
            for item in items.unwrap_or_default() {
                find(item, plugins, cx);
            }
        }
        Some("WasmPlugin") => plugins.extend(object(&section, cx)),
        Some(kind) => cx.note(
            section.span_of("kind"),
            format!("a {kind} is no plugin's configuration: left out"),
        ),
        None => {
            let known = ["provider", "providers", "activeProviderId", "_rules_"];
            if !known.iter().any(|key| section.has(key)) {
                cx.note(section.span, "no configuration of ai-proxy: left out");
                return;
            }
            let rules = rules::inline(&section, cx);
            let global = Some(section);
            plugins.push(Plugin { global, rules });
        }
    }
}

/// How Higress gets and verifies the plugin, and when it calls it: nothing that could be meant here.
const OF_HIGRESS: [&str; 11] = [
    "url",
    "sha256",
    "imagePullPolicy",
    "imagePullSecret",
    "verificationKey",
    "vmConfig",
    "pluginName",
    "phase",
    "priority",
    "type",
    "failStrategy",
];

/// A WasmPlugin object.
fn object<'a>(object: &Section<'a>, cx: &mut Cx<'_>) -> Option<Plugin<'a>> {
    let Some(spec) = object.section("spec") else {
        cx.note(object.span, "a WasmPlugin without `spec`: left out");
        return None;
    };
    let name = object.section("metadata").and_then(|m| m.text("name"));
    let is_ours = |text: Option<&str>| text.is_some_and(|text| text.contains("ai-proxy"));
    if !is_ours(name) && !is_ours(spec.text("url")) && !is_ours(spec.text("pluginName")) {
        let name = name.unwrap_or("without a name").to_owned();
        cx.note(
            object.span,
            format!("the plugin {name} is not ai-proxy: left out"),
        );
        return None;
    }
    let mut rules = rules::of_object(&spec, cx);
    let mut global = spec
        .section("defaultConfig")
        .or_else(|| spec.section("pluginConfig"));
    if let Some(global) = &global
        && rules.is_empty()
    {
        // Rules of the object replace those of its configuration.
        rules = rules::inline(global, cx);
    }
    if spec.flag("defaultConfigDisable") == Some(true) {
        // Its providers are still what rules choose from; only requests that no rule fits go another way.
        if let Some(section) = &mut global {
            section.passive = true;
        }
    }
    for key in OF_HIGRESS {
        spec.get(key);
    }
    spec.note_unread(cx);
    Some(Plugin { global, rules })
}

/// Everything that was converted.
#[derive(Default)]
struct All {
    providers: Vec<Converted>,
    routes: Vec<(String, Yaml)>,
}

impl All {
    fn plugin(&mut self, plugin: &Plugin<'_>, cx: &mut Cx<'_>) {
        let known = match &plugin.global {
            Some(global) => self.listed(global, cx),
            None => Vec::new(),
        };
        for rule in &plugin.rules {
            let own = self.listed(&rule.config, cx);
            let choice = if own.is_empty() { &known } else { &own };
            let active = self.active(&rule.config, choice, cx);
            rule.config.note_unread(cx);
            let Some(criteria) = rule.criteria(cx) else {
                continue;
            };
            self.route(&criteria, active);
            if active.is_none() {
                cx.note(
                    rule.config.span,
                    "a rule without a provider that could be imported: its requests are answered 503 until you write where they go (in Higress those of a rule without an active provider pass as they are)",
                );
            }
        }
        let Some(global) = &plugin.global else { return };
        let active = self.active(global, &known, cx);
        global.note_unread(cx);
        match active {
            Some(_) if !global.passive => self.route(&Criteria::everything(), active),
            None if plugin.rules.is_empty() => cx.note(
                global.span,
                "no provider is active: there is no route; set activeProviderId or add one",
            ),
            _ => cx.note(
                global.span,
                "requests that no rule fits pass as they are in Higress; here there is no route for them, and they get 404: add one to an upstream",
            ),
        }
    }

    /// The providers that a configuration lists, with their ids.
    fn listed(&mut self, config: &Section<'_>, cx: &mut Cx<'_>) -> Vec<(String, Option<usize>)> {
        if let Some(single) = config.section("provider") {
            return vec![(String::new(), self.provider(&single, cx))];
        }
        let list = config.sections("providers", cx);
        list.into_iter()
            .map(|section| {
                let id = section.text("id").unwrap_or_default().to_owned();
                (id, self.provider(&section, cx))
            })
            .collect()
    }

    /// Which of them answers.
    fn active(
        &self,
        config: &Section<'_>,
        choice: &[(String, Option<usize>)],
        cx: &mut Cx<'_>,
    ) -> Option<usize> {
        if let [(id, provider)] = choice
            && id.is_empty()
        {
            return *provider;
        }
        let wanted = config.text("activeProviderId")?;
        match choice.iter().find(|(id, _)| id == wanted) {
            Some((_, provider)) => *provider,
            None => {
                let text = format!("no provider has the id {wanted:?}");
                cx.note(config.span_of("activeProviderId"), text);
                None
            }
        }
    }

    /// Converts a provider; the same one twice is one.
    fn provider(&mut self, section: &Section<'_>, cx: &mut Cx<'_>) -> Option<usize> {
        let mut converted = provider::convert(section, cx)?;
        let same = |other: &Converted| {
            other.entries == converted.entries && other.retry == converted.retry
        };
        if let Some(at) = self.providers.iter().position(same) {
            return Some(at);
        }
        let taken = |name: &str| self.providers.iter().any(|p| p.name == name);
        converted.name = unique(&converted.name, taken);
        self.providers.push(converted);
        Some(self.providers.len() - 1)
    }

    /// A route to a provider. Without one it answers for itself: left out, its requests would take the next route that fits.
    fn route(&mut self, criteria: &Criteria, provider: Option<usize>) {
        let taken = |name: &str| self.routes.iter().any(|(taken, _)| taken == name);
        let name = unique(&criteria.name, taken);
        let provider = provider.map(|at| &self.providers[at]);
        let mut route = vec![("name".to_owned(), Yaml::text(name.clone()))];
        if let Some(condition) = criteria.condition() {
            route.push(("match".to_owned(), condition));
        }
        match provider {
            Some(provider) => {
                let target = Yaml::map([("provider", Yaml::text(provider.name.clone()))]);
                route.push(("to".to_owned(), Yaml::List(vec![target])));
                let retry = provider.retry.clone();
                route.extend(retry.map(|retry| ("retry".to_owned(), retry)));
            }
            None => {
                let status = ("status", Yaml::plain(503));
                let body = ("body", Yaml::text("this rule could not be imported"));
                route.push(("respond".to_owned(), Yaml::map([status, body])));
            }
        }
        self.routes.push((name, Yaml::Map(route)));
    }

    fn routes(&self) -> Vec<Yaml> {
        self.routes.iter().map(|(_, route)| route.clone()).collect()
    }

    fn providers(&self) -> Vec<Yaml> {
        self.providers.iter().map(Converted::yaml).collect()
    }
}

/// The name, or the first of `name-2`, `name-3`, … that is free.
fn unique(wanted: &str, taken: impl Fn(&str) -> bool) -> String {
    let numbered = (2..).map(|n| format!("{wanted}-{n}"));
    std::iter::once(wanted.to_owned())
        .chain(numbered)
        .find(|name| !taken(name))
        .unwrap_or_default()
}
