//! Free ports, and the names that configurations have for them.

use std::collections::BTreeMap;
use std::io;
use std::net::TcpListener;

pub type Values = BTreeMap<String, String>;

/// Ports that nobody listens on, below those that the kernel gives to outgoing connections: with tens of
/// thousands of these a port could be taken between finding it and listening on it.
pub struct Ports {
    next: u16,
}

impl Ports {
    pub fn new() -> Self {
        // Not the same ports as those of a run beside this one.
        Ports { next: 12_000 + (std::process::id() % 16_000) as u16 }
    }

    pub fn free(&mut self) -> io::Result<u16> {
        for _ in 0..18_000 {
            let port = self.next;
            self.next = if port >= 30_000 { 12_000 } else { port + 1 };
            if TcpListener::bind(("127.0.0.1", port)).is_ok() {
                return Ok(port);
            }
        }
        Err(io::Error::other("no free port"))
    }
}

/// `${NAME}` becomes the value of that name; a name without one is a mistake.
pub fn fill_in(template: &str, values: &Values) -> Result<String, String> {
    let mut text = String::with_capacity(template.len());
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("${") {
        let (name, after) = after.split_once('}').ok_or("a `${` without its `}`")?;
        let value = match values.get(name) {
            Some(value) => value,
            // The comment that explains it.
            None if name == "…" => "…",
            None => return Err(format!("nothing is known of ${{{name}}}")),
        };
        text.push_str(before);
        text.push_str(value);
        rest = after;
    }
    text.push_str(rest);
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_replaced() {
        let values = Values::from([("A".into(), "1".into()), ("AB".into(), "2".into())]);
        assert_eq!(fill_in("x ${A}${AB} $host }", &values).unwrap(), "x 12 $host }");
        assert!(fill_in("${C}", &values).is_err());
        assert!(fill_in("${A", &values).is_err());
    }
}
