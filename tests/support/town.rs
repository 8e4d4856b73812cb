//! Where programs that are not ours meet: an app behind its sidecar, and the sidecar of a client.

use std::fmt;
use std::net::SocketAddr;

use super::Proxy;
use super::counterpart::Server;

/// How a client reaches the app.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// By the inbound listener.
    Inbound,
    /// By the outbound listener, where `Host` names the service.
    Host,
    /// As [`Way::Host`], and the endpoint of the service is the inbound listener of another proxy.
    Mesh,
    /// By the outbound listener as a forward proxy.
    Proxy,
    /// By a tunnel through the outbound listener.
    Connect,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Inbound => "inbound",
            Self::Host => "host",
            Self::Mesh => "mesh",
            Self::Proxy => "proxy",
            Self::Connect => "connect",
        };
        f.write_str(name)
    }
}

/// An app behind a sidecar, and the sidecar of a client.
pub struct Town {
    app: Proxy,
    client: Proxy,
}

impl Town {
    /// `servers` are the endpoints of the app; its own sidecar has the first.
    pub async fn around(servers: &[&Server]) -> Self {
        Self::speaking("auto", servers).await
    }

    pub async fn speaking(protocol: &str, servers: &[&Server]) -> Self {
        let all: Vec<String> =
            servers.iter().map(|server| format!("\"{}\"", server.address)).collect();
        let service_protocol = match protocol {
            "auto" => String::new(),
            named => format!(", protocol: {named}"),
        };
        let app = Proxy::start(&format!(
            "service: {{ name: app, address: \"{}\"{service_protocol} }}\n",
            servers[0].address
        ))
        .await;
        let client = Proxy::start(&format!(
            "services:
  app: {{ endpoints: [{}]{service_protocol} }}
  mesh: {{ endpoints: [\"{}\"] }}
",
            all.join(", "),
            app.inbound()
        ))
        .await;
        Self { app, client }
    }

    pub fn entrance(&self, way: Way) -> SocketAddr {
        match way {
            Way::Inbound => self.app.inbound(),
            _ => self.client.outbound(),
        }
    }
}
