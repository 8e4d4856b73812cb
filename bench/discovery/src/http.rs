//! As little of HTTP/1.1 as the benchmark needs.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::Result;

/// A connection that is used again and again.
pub struct Connection {
    address: SocketAddr,
    stream: Option<TcpStream>,
}

pub struct Answer {
    pub status: u16,
    pub body: Vec<u8>,
}

impl Connection {
    pub fn to(address: SocketAddr) -> Self {
        Self { address, stream: None }
    }

    pub async fn ask(
        &mut self,
        method: &str,
        host: &str,
        path: &str,
        body: &str,
    ) -> Result<Answer> {
        if let Some(stream) = self.stream.take()
            // Its server may have closed it meanwhile.
            && let Ok(answer) = self.ask_on(stream, method, host, path, body).await
        {
            return Ok(answer);
        }
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        self.ask_on(stream, method, host, path, body).await
    }

    async fn ask_on(
        &mut self,
        mut stream: TcpStream,
        method: &str,
        host: &str,
        path: &str,
        body: &str,
    ) -> Result<Answer> {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: {host}\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(head.as_bytes()).await?;
        let (answer, closes) = read(&mut stream).await?;
        if !closes {
            self.stream = Some(stream);
        }
        Ok(answer)
    }

    pub async fn get(&mut self, host: &str, path: &str) -> Result<Answer> {
        self.ask("GET", host, path, "").await
    }
}

async fn read(stream: &mut TcpStream) -> Result<(Answer, bool)> {
    let mut bytes = Vec::with_capacity(4096);
    let end = loop {
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err("the connection ended before the answer".into());
        }
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
    };
    let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
    let status = head.get(9..12).and_then(|status| status.parse().ok()).ok_or("no status")?;
    let closes = head.contains("connection: close");
    let length =
        head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
    let mut body = bytes.split_off(end);
    if head.contains("transfer-encoding: chunked") {
        body = chunked(stream, body).await?;
    } else if let Some(length) = length {
        let length: usize = length;
        while body.len() < length {
            if stream.read_buf(&mut body).await? == 0 {
                return Err("the answer broke off".into());
            }
        }
    }
    Ok((Answer { status, body }, closes))
}

async fn chunked(stream: &mut TcpStream, mut bytes: Vec<u8>) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = loop {
            if let Some(line) = bytes.windows(2).position(|window| window == b"\r\n") {
                break line;
            }
            if stream.read_buf(&mut bytes).await? == 0 {
                return Err("the answer broke off".into());
            }
        };
        let size = usize::from_str_radix(std::str::from_utf8(&bytes[..line])?.trim(), 16)?;
        bytes.drain(..line + 2);
        while bytes.len() < size + 2 {
            if stream.read_buf(&mut bytes).await? == 0 {
                return Err("the answer broke off".into());
            }
        }
        body.extend(bytes.drain(..size));
        bytes.drain(..2);
        if size == 0 {
            return Ok(body);
        }
    }
}
