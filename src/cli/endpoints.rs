//! `pilotfish endpoints`: where services run, as a proxy that runs knows it.

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde_json::Value;

#[derive(Args)]
pub struct Endpoints {
    /// Only of this service.
    service: Option<String>,
    /// The admin server of the proxy.
    #[arg(
        long,
        env = "PILOTFISH_ADMIN",
        value_name = "ADDRESS",
        default_value = "127.0.0.1:15000"
    )]
    admin: SocketAddr,
    /// How it is printed.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Clone, Copy, ValueEnum)]
enum Output {
    Table,
    Json,
    Yaml,
}

const WITHIN: Duration = Duration::from_secs(5);

impl Endpoints {
    /// What is to be printed.
    ///
    /// # Errors
    /// The proxy does not answer, or does not know the service.
    pub fn run(&self) -> Result<String, String> {
        let clusters = self.ask().map_err(|error| {
            format!(
                "the admin server at {} does not answer: {error}; give its address by --admin",
                self.admin
            )
        })?;
        let Value::Array(mut clusters) = clusters else {
            return Err(format!("{} is no admin server of pilotfish", self.admin));
        };
        if let Some(service) = &self.service {
            clusters.retain(|cluster| cluster["name"] == **service);
            if clusters.is_empty() {
                return Err(format!("the proxy knows no service `{service}`"));
            }
        }
        let clusters = Value::Array(clusters);
        match self.output {
            Output::Table => Ok(table(&clusters)),
            Output::Json => Ok(format!("{clusters:#}\n")),
            Output::Yaml => serde_yaml::to_string(&clusters).map_err(|error| error.to_string()),
        }
    }

    fn ask(&self) -> io::Result<Value> {
        let mut stream = TcpStream::connect_timeout(&self.admin, WITHIN)?;
        stream.set_read_timeout(Some(WITHIN))?;
        stream.write_all(b"GET /clusters?format=json HTTP/1.0\r\nhost: localhost\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let other = || io::Error::other("its answer is that of another server");
        let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(other)?;
        if head.split(' ').nth(1) != Some("200") {
            return Err(io::Error::other(head.lines().next().unwrap_or_default().to_owned()));
        }
        serde_json::from_str(body).map_err(|_| other())
    }
}

/// A line for each endpoint, and one for each service without any.
fn table(clusters: &Value) -> String {
    let mut rows = vec![row([
        "SERVICE",
        "SOURCE",
        "KNOWN",
        "ENDPOINT",
        "STATE",
        "IN FLIGHT",
        "LATENCY",
        "VERSION",
        "ZONE",
    ])];
    for cluster in clusters.as_array().into_iter().flatten() {
        let name = text(&cluster["name"]);
        let registry = &cluster["registry"];
        let source = match registry {
            Value::Null => "configuration".to_owned(),
            registry => text(&registry["source"]),
        };
        let known = match registry["age_seconds"].as_f64() {
            Some(age) if age > 0.0 => format!("{} {age:.0}s", text(&registry["state"])),
            Some(_) => text(&registry["state"]),
            None => "-".to_owned(),
        };
        let endpoints = cluster["endpoints"].as_array().map_or(&[][..], Vec::as_slice);
        if endpoints.is_empty() {
            let none = "(none)".to_owned();
            rows.push([name.clone(), source.clone(), known.clone(), none].into_iter().collect());
        }
        for endpoint in endpoints {
            let state = match endpoint["held"] == true {
                true => format!("{}, held", text(&endpoint["state"])),
                false => text(&endpoint["state"]),
            };
            let latency = endpoint["latency_ms"].as_f64();
            rows.push(vec![
                name.clone(),
                source.clone(),
                known.clone(),
                text(&endpoint["address"]),
                state,
                text(&endpoint["in_flight"]),
                latency.map_or("-".to_owned(), |latency| format!("{latency:.1}ms")),
                text(&endpoint["version"]),
                text(&endpoint["zone"]),
            ]);
        }
    }
    let mut out = aligned(&rows);
    for cluster in clusters.as_array().into_iter().flatten() {
        if let Some(error) = cluster["registry"]["error"].as_str() {
            let _ = writeln!(out, "\n{}: {}", text(&cluster["name"]), shown(error, 300));
        }
    }
    out
}

fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).into()
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => shown(text, 60),
        other => other.to_string(),
    }
}

/// At most so many characters, and none that a terminal obeys: whoever writes to a registry writes this.
fn shown(text: &str, most: usize) -> String {
    let shown = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
    let mut cut: String = text.chars().take(most).map(shown).collect();
    if text.chars().nth(most).is_some() {
        cut.push('…');
    }
    cut
}

fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell: &String| cell.chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:<width$}  ");
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_a_line_for_each_endpoint() {
        let clusters = serde_json::json!([
            {
                "name": "users",
                "registry": { "source": "consul", "state": "stale", "age_seconds": 12.3, "error": "away" },
                "endpoints": [{
                    "address": "10.0.0.1:80", "state": "available", "held": true, "in_flight": 3,
                    "latency_ms": 1.25, "version": "v1", "zone": null,
                }],
            },
            { "name": "orders", "registry": null, "endpoints": [] },
        ]);
        assert_eq!(
            table(&clusters),
            "SERVICE  SOURCE         KNOWN      ENDPOINT     STATE            IN FLIGHT  LATENCY  VERSION  ZONE\n\
             users    consul         stale 12s  10.0.0.1:80  available, held  3          1.2ms    v1       -\n\
             orders   configuration  -          (none)\n\n\
             users: away\n"
        );
    }

    #[test]
    fn what_a_registry_wrote_does_nothing_to_a_terminal() {
        assert_eq!(shown("\u{1b}[2Jzone\n", 60), "\u{fffd}[2Jzone\u{fffd}");
        assert_eq!(shown("0123456789", 4), "0123…");
    }
}
