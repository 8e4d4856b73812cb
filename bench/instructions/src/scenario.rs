//! What is measured: one entry a scenario. A new policy is an entry in [`SCENARIOS`] that takes one of the
//! bases and says what is different.

use crate::peers::{Message, Protocol};

pub struct Scenario {
    pub name: &'static str,
    /// Through the listener for requests to the app, or the one for its own calls.
    pub inbound: bool,
    pub client: Protocol,
    /// Requests that are sent before the first answer is waited for.
    pub at_once: usize,
    pub upstream: Protocol,
    pub request: &'static Message,
    pub answer: &'static Message,
    /// Whether upstreams get the requests; otherwise the proxy answers.
    pub forwarded: bool,
    pub config: Config,
}

/// Lines of YAML under these keys.
pub struct Config {
    pub service: &'static str,
    pub inbound: &'static str,
    pub outbound: &'static str,
    /// Under `services.users`, which has three endpoints.
    pub users: &'static str,
    pub access_log: &'static str,
    pub tracing: &'static str,
    /// Routes of `inbound` that no request takes.
    pub other_routes: usize,
}

/// As the documentation recommends it: everything on, and the log as JSON to a file.
const SHIPPED: Config = Config {
    service: "protocol: auto",
    inbound: "",
    outbound: "",
    users: "",
    access_log: "{ format: json, path: DIRECTORY/access.log }",
    tracing: "",
    other_routes: 0,
};

const GET: Message = Message {
    fields: &[
        (":method", "GET"),
        (":scheme", "http"),
        (":authority", "users"),
        (":path", "/users/42/orders?limit=10"),
        ("user-agent", "shop/1.4.2"),
        ("accept", "application/json"),
        ("accept-encoding", "gzip, deflate"),
    ],
    body: b"",
    trailers: &[],
};

const POST: Message = Message {
    fields: &[
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", "users"),
        (":path", "/users/42/orders"),
        ("user-agent", "shop/1.4.2"),
        ("accept", "application/json"),
        ("content-type", "application/json"),
        ("content-length", "1024"),
    ],
    body: &[b'x'; 1024],
    trailers: &[],
};

const TRACED: Message = Message {
    fields: &[
        (":method", "GET"),
        (":scheme", "http"),
        (":authority", "users"),
        (":path", "/users/42/orders?limit=10"),
        ("user-agent", "shop/1.4.2"),
        ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        ("tracestate", "rojo=00f067aa0ba902b7"),
        ("x-request-id", "0d4a8e1c-5b7f-4c3e-9a51-7f2b6c8d9e10"),
        ("x-forwarded-for", "203.0.113.7"),
    ],
    body: b"",
    trailers: &[],
};

const OK: Message = Message {
    fields: &[
        (":status", "200"),
        ("content-type", "application/json"),
        ("content-length", "128"),
        ("cache-control", "no-store"),
        ("date", "Thu, 01 Jan 2026 00:00:00 GMT"),
    ],
    body: &[b'x'; 128],
    trailers: &[],
};

const GRPC_CALL: Message = Message {
    fields: &[
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/shop.Users/Get"),
        (":authority", "users"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        ("grpc-timeout", "5S"),
        ("user-agent", "grpc-shop/1.4.2"),
    ],
    body: b"\0\0\0\0\x20................................",
    trailers: &[],
};

const GRPC_ANSWER: Message = Message {
    fields: &[(":status", "200"), ("content-type", "application/grpc")],
    body: b"\0\0\0\0\x20................................",
    trailers: &[("grpc-status", "0")],
};

const INBOUND: Scenario = Scenario {
    name: "",
    inbound: true,
    client: Protocol::Http1,
    at_once: 1,
    upstream: Protocol::Http1,
    request: &GET,
    answer: &OK,
    forwarded: true,
    config: SHIPPED,
};
const OUTBOUND: Scenario = Scenario { inbound: false, ..INBOUND };
const HTTP2: Scenario = Scenario { client: Protocol::Http2, ..INBOUND };
const GRPC: Scenario = Scenario {
    client: Protocol::Http2,
    upstream: Protocol::Http2,
    request: &GRPC_CALL,
    answer: &GRPC_ANSWER,
    ..INBOUND
};

pub const SCENARIOS: &[Scenario] = &[
    // The path itself.
    Scenario { name: "http1-inbound", ..INBOUND },
    Scenario { name: "http1-outbound", ..OUTBOUND },
    Scenario { name: "http1-post-1k", request: &POST, ..INBOUND },
    Scenario { name: "http2-to-http1", ..HTTP2 },
    Scenario { name: "http2-to-http1-16-streams", at_once: 16, ..HTTP2 },
    Scenario {
        name: "http2-outbound",
        inbound: false,
        upstream: Protocol::Http2,
        config: Config { users: "protocol: http2", ..SHIPPED },
        ..HTTP2
    },
    Scenario { name: "grpc-inbound", ..GRPC },
    Scenario { name: "grpc-outbound-16-streams", inbound: false, at_once: 16, ..GRPC },
    // One policy more, or one less.
    Scenario { name: "access-log-off", config: Config { access_log: "off", ..SHIPPED }, ..INBOUND },
    Scenario {
        name: "access-log-text",
        config: Config { access_log: "{ format: text, path: DIRECTORY/access.log }", ..SHIPPED },
        ..INBOUND
    },
    Scenario {
        name: "headers",
        config: Config {
            inbound: "
  request_headers: { remove: [accept-encoding], set: { x-env: test }, add: { x-hop: proxy } }
  response_headers: { remove: [cache-control], set: { x-served-by: shop }, add: { vary: accept } }",
            ..SHIPPED
        },
        ..INBOUND
    },
    Scenario {
        name: "rewrite",
        config: Config {
            inbound: "
  routes:
    - match: { path_prefix: /users }
      rewrite: { path_prefix: /v2/people, host: people.example }",
            ..SHIPPED
        },
        ..INBOUND
    },
    Scenario {
        name: "routes-1000",
        config: Config {
            inbound: "
  routes:
    - match: { path: '/users/{id}/orders', methods: [GET], headers: { accept: application/json } }",
            other_routes: 1000,
            ..SHIPPED
        },
        ..INBOUND
    },
    Scenario {
        name: "respond",
        forwarded: false,
        config: Config {
            inbound: "
  routes:
    - match: { path_prefix: /users }
      respond: { status: 200, json: { users: [] } }",
            ..SHIPPED
        },
        ..INBOUND
    },
    Scenario {
        name: "split",
        config: Config {
            users: "
    routes:
      - match: { path_prefix: /users }
        to:
          - { service: users, version: v1, weight: 9 }
          - { service: users, version: v2, weight: 1 }",
            ..SHIPPED
        },
        ..OUTBOUND
    },
    Scenario {
        name: "trace-sampled",
        config: Config { tracing: "{ sample: 10% }", ..SHIPPED },
        ..INBOUND
    },
    Scenario {
        name: "trace-continued",
        request: &TRACED,
        config: Config { inbound: "\n  trusted_proxies: [127.0.0.0/8]", ..SHIPPED },
        ..INBOUND
    },
    Scenario {
        name: "body-limit",
        request: &POST,
        config: Config { inbound: "\n  policy: { max_body: 10KiB }", ..SHIPPED },
        ..INBOUND
    },
    Scenario {
        name: "rate-limit",
        config: Config { inbound: "\n  policy: { rate_limit: { requests: 1000000 } }", ..SHIPPED },
        ..INBOUND
    },
    Scenario {
        name: "rate-limit-by-client-without-headers",
        config: Config {
            inbound: "
  policy: { rate_limit: { requests: 1000000, key: client_ip, headers: false } }",
            ..SHIPPED
        },
        ..INBOUND
    },
    Scenario {
        name: "timeouts-off",
        config: Config { inbound: "\n  policy: { timeout: off }", ..SHIPPED },
        ..INBOUND
    },
    Scenario {
        name: "retry-off",
        config: Config { users: "\n    policy: { retry: off }", ..SHIPPED },
        ..OUTBOUND
    },
    // Of which no request is slow enough.
    Scenario {
        name: "hedge",
        config: Config { users: "\n    policy: { hedge: { after: 1s } }", ..SHIPPED },
        ..OUTBOUND
    },
    // That trip never.
    Scenario {
        name: "circuit-breakers",
        config: Config {
            users: "
    policy:
      circuit_breaker: { scope: both, consecutive_failures: 5, failure_rate: 50%, slow_call_rate: 80% }
      outlier_detection: { consecutive_gateway_errors: 5 }
      slow_start: {}",
            ..SHIPPED
        },
        ..OUTBOUND
    },
    // None at all, not even those that are on by default.
    Scenario {
        name: "policies-off",
        config: Config {
            users: concat!(
                "\n    policy:\n",
                include_str!("../../compare/config/policies-off.yaml")
            ),
            ..SHIPPED
        },
        ..OUTBOUND
    },
    // Every policy at once, none of which has anything to do: as `policies-on` of bench/compare.
    Scenario {
        name: "policies-on",
        config: Config {
            users: concat!(
                "\n    policy:\n",
                include_str!("../../compare/config/policies-on.yaml")
            ),
            ..SHIPPED
        },
        ..OUTBOUND
    },
    Scenario {
        name: "outlier-detection-off",
        config: Config { users: "\n    policy: { outlier_detection: off }", ..SHIPPED },
        ..OUTBOUND
    },
    Scenario {
        name: "bulkheads",
        config: Config {
            users: "
    policy:
      bulkhead: { max_requests: 100, endpoint: { max_requests: 50, max_connections: 50 } }
      priority: { header: x-priority }",
            ..SHIPPED
        },
        ..OUTBOUND
    },
    Scenario {
        name: "adaptive-concurrency",
        config: Config { users: "\n    policy: { adaptive_concurrency: {} }", ..SHIPPED },
        ..OUTBOUND
    },
    // Of which no request gets anything.
    Scenario {
        name: "fallback-fault-mirror",
        config: Config {
            users: "
    policy:
      fallback: { json: { users: [] }, on: [timeout, 503] }
      fault: { abort: { status: 503, share: 0% }, headers: { x-fault: 'yes' } }
      mirror: { service: app, share: 0% }",
            ..SHIPPED
        },
        ..OUTBOUND
    },
    Scenario {
        name: "least-request",
        config: Config { users: "\n    load_balancer: least_request", ..SHIPPED },
        ..OUTBOUND
    },
    Scenario {
        name: "maglev-bounded",
        config: Config {
            users: "
    load_balancer: { maglev: { key: { header: user-agent }, bounded_load: 125% } }",
            ..SHIPPED
        },
        ..OUTBOUND
    },
    Scenario {
        name: "sticky-cookie",
        config: Config { users: "\n    load_balancer: sticky_cookie", ..SHIPPED },
        ..OUTBOUND
    },
];

impl Config {
    /// The whole text, for sockets in `directory`.
    pub fn yaml(&self, directory: &str) -> String {
        let mut routes = String::new();
        for i in 0..self.other_routes {
            routes += &format!("\n    - match: {{ path_prefix: /other-{i} }}");
        }
        let Self { service, inbound, outbound, users, access_log, tracing, .. } = self;
        let tracing =
            if tracing.is_empty() { String::new() } else { format!("\n  tracing: {tracing}") };
        format!(
            "service:
  name: shop
  address: unix:DIRECTORY/app
  {service}
inbound:
  listen: 127.0.0.1:15006{inbound}{routes}
outbound:
  listen: 127.0.0.1:15001{outbound}
services:
  users:
    endpoints:
      - {{ address: 'unix:DIRECTORY/users-0', version: v1 }}
      - {{ address: 'unix:DIRECTORY/users-1', version: v1 }}
      - {{ address: 'unix:DIRECTORY/users-2', version: v2 }}
    {users}
  # For mirrors.
  app: {{ endpoints: ['unix:DIRECTORY/users-2'] }}
telemetry:
  access_log: {access_log}{tracing}
admin: {{ listen: off, metrics: off }}
"
        )
        .replace("DIRECTORY", directory)
    }
}

pub fn find(name: &str) -> Option<&'static Scenario> {
    SCENARIOS.iter().find(|scenario| scenario.name == name)
}
