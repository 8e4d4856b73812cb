//! What a proxy tells of itself, on the ports of its admin server and its metrics.

use reqwest::Client;
use serde_json::Value;

use crate::place::Service;

/// Where instances are, as one proxy knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    pub address: String,
    /// `available`, `unhealthy`, `ejected`, `breaker_open`.
    pub state: String,
}

/// Whether it is ready, or why not.
pub async fn ready(http: &Client, metrics: u16) -> Result<(), String> {
    let url = format!("http://127.0.0.1:{metrics}/ready");
    let asked = http.get(url).send().await;
    let answer = asked.map_err(|_| "its /ready does not answer".to_owned())?;
    match answer.status().is_success() {
        true => Ok(()),
        false => Err(format!("/ready says: {}", answer.text().await.unwrap_or_default().trim())),
    }
}

/// The endpoints of a service that the registry has told of.
pub async fn endpoints(
    http: &Client,
    admin: u16,
    service: Service,
) -> Result<Vec<Endpoint>, String> {
    let url = format!("http://127.0.0.1:{admin}/clusters?format=json");
    let asked = async { http.get(url).send().await?.json().await };
    let clusters: Value =
        asked.await.map_err(|_: reqwest::Error| "its /clusters does not answer".to_owned())?;
    Ok(told(&clusters, service.name()))
}

/// Whether it knows so many instances that may be called.
pub async fn knows(
    http: &Client,
    admin: u16,
    service: Service,
    count: usize,
) -> Result<(), String> {
    let endpoints = endpoints(http, admin, service).await?;
    let available = endpoints.iter().filter(|it| it.state == "available").count();
    match available {
        all if all == count => Ok(()),
        some => Err(format!("it knows {some} of {count} instances of {service}")),
    }
}

/// The sum of the series of a metric that have this label, as `state="open"`; 0 where nothing was counted yet.
pub async fn metric(http: &Client, metrics: u16, name: &str, label: &str) -> Result<f64, String> {
    let url = format!("http://127.0.0.1:{metrics}/metrics");
    let asked = async { http.get(url).send().await?.text().await };
    let text = asked.await.map_err(|_| "its /metrics does not answer".to_owned())?;
    Ok(sum(&text, name, label))
}

fn told(clusters: &Value, service: &str) -> Vec<Endpoint> {
    let all = clusters.as_array().into_iter().flatten();
    // A sidecar lists its own app by the same name, of which no registry tells.
    let mut followed = all.filter(|it| it["name"] == service && !it["registry"].is_null());
    let endpoints = followed.next().and_then(|it| it["endpoints"].as_array());
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let each = endpoints.into_iter().flatten();
    each.map(|it| Endpoint { address: text(&it["address"]), state: text(&it["state"]) }).collect()
}

fn sum(metrics: &str, name: &str, label: &str) -> f64 {
    let lines = metrics.lines().filter_map(|line| line.rsplit_once(' '));
    let of = |series: &str| series.split('{').next() == Some(name) && series.contains(label);
    lines.filter(|(series, _)| of(series)).filter_map(|(_, value)| value.parse::<f64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn endpoints_are_those_that_the_registry_tells_of() {
        let at = |address, state| json!({ "address": address, "state": state });
        let clusters = json!([
            { "name": "a", "registry": null, "endpoints": [at("x:1", "available")] },
            { "name": "a", "registry": { "state": "fresh" }, "endpoints": [
                at("x:2", "available"), at("x:3", "breaker_open")] },
        ]);
        let endpoint =
            |address: &str, state: &str| Endpoint { address: address.into(), state: state.into() };
        assert_eq!(
            told(&clusters, "a"),
            [endpoint("x:2", "available"), endpoint("x:3", "breaker_open")]
        );
        assert_eq!(told(&clusters, "b"), []);
    }

    #[test]
    fn the_series_of_a_metric_are_added_up() {
        let text =
            "# HELP a_total x\na_total{s=\"u v\"} 2\na_total{s=\"w\"} 3\na_total_more 9\nb 1\n";
        let of = |name, label| sum(text, name, label);
        assert_eq!((of("a_total", ""), of("b", ""), of("c", "")), (5.0, 1.0, 0.0));
        assert_eq!(of("a_total", "s=\"w\""), 3.0);
    }
}
