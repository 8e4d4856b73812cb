//! Routes: which requests, and what happens to them.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{HashKey, Map, Policy};
use crate::config::units::{HeaderName, HeaderValue, Host, HostPattern, Method, Name, UrlPath};

/// Which requests, and what happens to them: `to`, `redirect` or `respond`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Its name in logs and metrics.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Which requests it takes; all conditions must hold. Default: all requests.
    #[serde(rename = "match", skip_serializing_if = "Option::is_none")]
    pub matches: Option<Match>,
    /// The service, or several with their weights. Default: of inbound routes the app, of a
    /// service's routes that service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<To>,
    /// By what requests are told apart where `to` has several targets, so that the same key always
    /// goes to the same one. Default: each request anew.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sticky: Option<HashKey>,
    /// Answer with a redirection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redirect: Option<Redirect>,
    /// Answer with this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub respond: Option<Respond>,
    /// Changes of path and host on the way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rewrite: Option<Rewrite>,
    /// Changes of the request's headers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_headers: Option<HeaderEdits>,
    /// Changes of the response's headers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_headers: Option<HeaderEdits>,
    /// The policy of its requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<Policy>,
}

/// Which requests a route takes. All conditions must hold; of `path`, `path_prefix` and
/// `path_regex` there can be one.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Match {
    /// The host: `api.example.com`, or `*.example.com` for all below it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<HostPattern>,
    /// Any of several hosts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hosts: Option<Vec<HostPattern>>,
    /// The whole path; `{id}` stands for one segment: `/orders/{id}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<UrlPath>,
    /// The first segments of the path: `/users` takes `/users` and `/users/1`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_prefix: Option<UrlPath>,
    /// A regular expression for the whole path: `/v[0-9]+/.*`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_regex: Option<String>,
    /// Any of these methods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub methods: Option<Vec<Method>>,
    /// What headers must be: a text, or a condition.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub headers: Option<Map<HeaderName, ValueMatch>>,
    /// What parameters of the query must be: a text, or a condition.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub query: Option<Map<String, ValueMatch>>,
}

/// What a header or parameter must be: a text, or a condition.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum ValueMatch {
    /// Exactly this text.
    Exact(String),
    /// A condition.
    Condition(ValueCondition),
}

/// What a header or parameter must be. One of the three.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ValueCondition {
    /// `true`: it must be there; `false`: it must not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub present: Option<bool>,
    /// A regular expression for the whole of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub regex: Option<String>,
    /// Anything but this text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not: Option<String>,
}

/// Where a route leads: one target or several. In YAML it is the name of a service, a map, or a list
/// of these.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(transparent)]
pub struct To(pub Vec<Target>);

/// A service, or some of its endpoints, and its share of the requests.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// The service. Default, in the routes of a service: that service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<Name>,
    /// Only endpoints of this version. Default: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Only endpoints that have these labels. Default: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
    /// Its share of the requests, relative to the others. Default: 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 1_000_000))]
    pub weight: Option<u32>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
enum OneTarget {
    Service(Name),
    Target(Target),
}

impl From<OneTarget> for Target {
    fn from(one: OneTarget) -> Self {
        match one {
            OneTarget::Service(name) => Self { service: Some(name), ..Self::default() },
            OneTarget::Target(target) => target,
        }
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
enum Targets {
    One(OneTarget),
    Several(Vec<OneTarget>),
}

impl<'de> Deserialize<'de> for To {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(match Targets::deserialize(deserializer)? {
            Targets::One(one) => vec![one.into()],
            Targets::Several(several) => several.into_iter().map(Target::from).collect(),
        }))
    }
}

impl JsonSchema for To {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "To".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let name = generator.subschema_for::<Name>();
        let target = generator.subschema_for::<Target>();
        schemars::json_schema!({
            "anyOf": [
                name,
                target,
                { "type": "array", "items": { "anyOf": [name, target] } },
            ],
        })
    }
}

/// A redirection. What is not given stays as it was requested.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Redirect {
    /// The new scheme.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheme: Option<RedirectScheme>,
    /// The new host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<Host>,
    /// The new path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<UrlPath>,
    /// The status: 301, 302, 303, 307 or 308. Default: 302.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = [301, 302, 303, 307, 308]))]
    pub status: Option<u16>,
}

/// The scheme of a redirection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RedirectScheme {
    /// `http://`
    Http,
    /// `https://`
    Https,
}

/// An answer of our own. Of `body` and `json` there can be one.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Respond {
    /// The status. Default: 200.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 200, max = 599))]
    pub status: Option<u16>,
    /// The body as a text. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// The body as any YAML, which becomes JSON. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub json: Option<serde_json::Value>,
    /// Headers of the response.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub headers: Option<Map<HeaderName, HeaderValue>>,
}

/// Changes of path and host on the way.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rewrite {
    /// What takes the place of the prefix that `match` names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_prefix: Option<UrlPath>,
    /// The new host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<Host>,
}

/// Changes of headers: `remove` first, then `set`, then `add`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HeaderEdits {
    /// Headers that are added to those of the same name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub add: Option<Map<HeaderName, HeaderValue>>,
    /// Headers that replace those of the same name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub set: Option<Map<HeaderName, HeaderValue>>,
    /// Headers that are removed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remove: Option<Vec<HeaderName>>,
}
