//! That what comes through a proxy is what it should be. Loads count statuses; this looks at one answer as
//! a whole, before a load is let loose.

use std::process::Command;
use std::time::Duration;

use crate::bench::Bench;
use crate::http;
use crate::load;
use crate::proxies::on_path;
use crate::scenario::Tool;

/// The bodies of the upstreams, by their path.
fn body(path: &str) -> String {
    let length = if path == "/large" { 100 * 1024 } else { 183 };
    "0123456789abcdef".chars().cycle().take(length).collect()
}

pub fn check(bench: &Bench, tool: Tool, port: u16) -> Result<(), String> {
    match tool {
        Tool::Wrk { path, .. } => http1(port, path),
        Tool::H2load { grpc: false, .. } => {
            let text = nghttp(bench, port, &[])?;
            expect(text.is_none_or(|text| text == body("/")), "an answer came through changed")
        }
        Tool::H2load { grpc: true, .. } => {
            let message = bench.folder.join("config/message.grpc").display().to_string();
            let call = ["-v", "-n", "-d", &message];
            let fields = ["-H", "content-type: application/grpc", "-H", "te: trailers"];
            let Some(text) = nghttp(bench, port, &[&call[..], &fields].concat())? else {
                return Ok(());
            };
            expect(text.contains(":status: 200"), "a call was not answered with 200")?;
            expect(text.contains("grpc-status: 0"), "a call has no grpc-status of 0")
        }
        // Our own loads look at each answer.
        Tool::Own { .. } | Tool::Paths { .. } => Ok(()),
    }
}

fn http1(port: u16, path: &str) -> Result<(), String> {
    let answer = http::ask(port, "GET", path).map_err(|error| error.to_string())?;
    let (head, got) =
        answer.split_once("\r\n\r\n").ok_or("an answer without an end of its head")?;
    expect(head.starts_with("HTTP/1.1 200 "), "not answered with 200")?;
    expect(got == body(path), "an answer came through changed")
}

/// What nghttp prints, if it is there.
fn nghttp(bench: &Bench, port: u16, arguments: &[&str]) -> Result<Option<String>, String> {
    let Some(nghttp) = on_path("nghttp") else { return Ok(None) };
    let mut command = Command::new(nghttp);
    command.args(arguments).arg(format!("http://127.0.0.1:{port}/"));
    load::run(&mut command, bench.options.load_core, Duration::from_secs(10), || {}).map(Some)
}

fn expect(good: bool, otherwise: &str) -> Result<(), String> {
    if good { Ok(()) } else { Err(otherwise.into()) }
}
