//! The JSON of the services, as a client has it.

use std::net::SocketAddr;

use serde_json::Value;

use crate::within;

#[derive(Clone)]
pub struct Api {
    base: String,
    client: reqwest::Client,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    pub status: u16,
    pub location: Option<String>,
    /// Null where there is no body.
    pub body: Value,
}

impl Api {
    pub fn new(address: SocketAddr) -> Self {
        // Whoever runs the tests may have a proxy in the environment.
        let client = reqwest::Client::builder().no_proxy().build().expect("a client");
        Self { base: format!("http://{address}"), client }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, None, None).await.expect("an answer")
    }

    pub async fn put(&self, path: &str, body: Value) -> Answer {
        self.ask("PUT", path, None, Some(body)).await.expect("an answer")
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.ask("POST", path, None, Some(body)).await.expect("an answer")
    }

    /// With this `Idempotency-Key`.
    pub async fn post_once(&self, path: &str, key: &str, body: Value) -> Answer {
        self.ask("POST", path, Some(key), Some(body)).await.expect("an answer")
    }

    /// None where there is no answer, because whom it asks has ended.
    pub async fn ask(
        &self,
        method: &str,
        path: &str,
        key: Option<&str>,
        body: Option<Value>,
    ) -> Option<Answer> {
        let method = method.parse().expect("a method");
        let mut request = self.client.request(method, format!("{}{path}", self.base));
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = within(request.send()).await.ok()?;
        let status = response.status().as_u16();
        let location = response.headers().get("location");
        let location = location.map(|value| value.to_str().expect("text").to_owned());
        let bytes = within(response.bytes()).await.ok()?;
        let body = match &bytes[..] {
            [] => Value::Null,
            bytes => serde_json::from_slice(bytes).unwrap_or_else(|_| {
                panic!("{path}: {status} and no JSON: {}", String::from_utf8_lossy(bytes))
            }),
        };
        Some(Answer { status, location, body })
    }
}
