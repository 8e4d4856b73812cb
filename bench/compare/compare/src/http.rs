//! A request at a time.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// The whole answer, head and all.
pub fn ask(port: u16, method: &str, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let length = if method == "GET" { "" } else { "Content-Length: 0\r\n" };
    let head = format!("{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{length}");
    stream.write_all(format!("{head}Connection: close\r\n\r\n").as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// The sum of a metric over all its labels.
pub fn metric(text: &str, name: &str) -> Option<f64> {
    let value = |line: &str| {
        let rest = line.strip_prefix(name)?;
        let is_it = rest.starts_with(['{', ' ']);
        if is_it { rest.rsplit_once(' ')?.1.trim().parse::<f64>().ok() } else { None }
    };
    let values: Vec<f64> = text.lines().filter_map(value).collect();
    (!values.is_empty()).then(|| values.iter().sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_summed_up_over_its_labels() {
        let text = "# HELP a x\na{l=\"1 2\"} 3\na{l=\"2\"} 4\nab 100\nb 5\n";
        assert_eq!(metric(text, "a"), Some(7.0));
        assert_eq!(metric(text, "b"), Some(5.0));
        assert_eq!(metric(text, "c"), None);
    }
}
