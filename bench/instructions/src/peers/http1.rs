//! HTTP/1 messages as text.

use super::Message;

pub fn request(message: &Message) -> Vec<u8> {
    let line = format!("{} {} HTTP/1.1", message.pseudo(":method"), message.pseudo(":path"));
    let host = format!("host: {}\r\n", message.pseudo(":authority"));
    text(&line, &host, message)
}

pub fn response(message: &Message) -> Vec<u8> {
    text(&format!("HTTP/1.1 {} OK", message.pseudo(":status")), "", message)
}

fn text(line: &str, host: &str, message: &Message) -> Vec<u8> {
    let fields: String = message
        .fields
        .iter()
        .filter(|(name, _)| !name.starts_with(':'))
        .map(|(name, value)| format!("{name}: {value}\r\n"))
        .collect();
    let mut bytes = format!("{line}\r\n{host}{fields}\r\n").into_bytes();
    bytes.extend_from_slice(message.body);
    bytes
}

/// Takes one whole message out of `unread`; gives its head.
pub fn take(unread: &mut Vec<u8>) -> Option<String> {
    let end = unread.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&unread[..end]).to_ascii_lowercase();
    assert!(!head.contains("transfer-encoding"), "a message without a length: {head}");
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length:"))
        .map_or(0, |length| length.trim().parse().expect("a length"));
    if unread.len() < end + length {
        return None;
    }
    let head = String::from_utf8_lossy(&unread[..end]).into_owned();
    unread.drain(..end + length);
    Some(head)
}

impl Message {
    fn pseudo(&self, name: &str) -> &'static str {
        let found = self.fields.iter().find(|(field, _)| *field == name);
        found.unwrap_or_else(|| panic!("no {name} in the message")).1
    }
}
