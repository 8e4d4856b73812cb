//! What is compared: a balancer and the policies around it. Each row is a configuration of Pilotfish, as
//! somebody would type it, and is read and compiled by its own code.

#[derive(Debug, Clone)]
pub struct Settings {
    pub group: &'static str,
    pub name: &'static str,
    pub load_balancer: &'static str,
    /// The keys of the service besides, with their values.
    pub service: Vec<(&'static str, &'static str)>,
    /// The keys of `policy` with their values.
    pub policy: Vec<(&'static str, String)>,
    pub foreign: Foreign,
}

/// What a peer has and Pilotfish has not.
#[derive(Debug, Clone, Copy, Default)]
pub struct Foreign {
    /// Retries at the same time, where it is their number that is bounded.
    pub parallel_retries: Option<u32>,
    /// An attempt that fails counts for its time in the average of latencies, and not for a penalty.
    pub failures_count_as_fast: bool,
}

/// The service that is called.
pub const SERVICE: &str = "users";

const RETRY_ANYTHING: &str = "on: [5xx, connect_failure, refused_stream, reset, timeout]";

impl Settings {
    /// A balancer and nothing else.
    fn bare(group: &'static str, load_balancer: &'static str) -> Self {
        let defaults = Self {
            group,
            name: "bare",
            load_balancer,
            service: vec![],
            policy: vec![],
            foreign: Foreign::default(),
        };
        defaults.with("retry", "off").with("bulkhead", "off").with("outlier_detection", "off")
    }

    pub fn named(self, name: &'static str) -> Self {
        Self { name, ..self }
    }

    pub fn with(mut self, key: &'static str, value: impl Into<String>) -> Self {
        self.policy.retain(|(known, _)| *known != key);
        self.policy.push((key, value.into()));
        self
    }

    fn without(mut self, key: &'static str) -> Self {
        self.policy.retain(|(known, _)| *known != key);
        self
    }

    /// The file that a proxy with these settings would read.
    pub fn file(&self, endpoints: usize) -> String {
        let endpoints: Vec<_> =
            (1..=endpoints).map(|host| format!("\"10.0.0.{host}:80\"")).collect();
        format!(
            "service: {{ name: client, port: 3000 }}\n\
             services:\n  {SERVICE}:\n    endpoints: [{}]\n{}",
            endpoints.join(", "),
            self.yaml().lines().map(|line| format!("    {line}\n")).collect::<String>(),
        )
    }

    /// The same for all services, as it could stand in any configuration.
    pub fn defaults(&self) -> String {
        let settings: String = self.yaml().lines().map(|line| format!("    {line}\n")).collect();
        format!("services:\n  defaults:\n{settings}")
    }

    /// What of it these settings are.
    fn yaml(&self) -> String {
        let mut text = format!("load_balancer: {}\n", self.load_balancer);
        for (key, value) in &self.service {
            text.push_str(&format!("{key}: {value}\n"));
        }
        if !self.policy.is_empty() {
            text.push_str("policy:\n");
        }
        for (key, value) in &self.policy {
            text.push_str(&format!("  {key}: {value}\n"));
        }
        text
    }

    fn ours(group: &'static str, load_balancer: &'static str) -> Vec<Self> {
        let bare = || Self::bare(group, load_balancer);
        let naive = format!(
            "{{ max_retries: 3, {RETRY_ANYTHING}, per_try_timeout: 1s, budget: {{ min_per_second: 1000000 }} }}"
        );
        let retry = format!("{{ {RETRY_ANYTHING}, per_try_timeout: 1s }}");
        let outliers = || bare().named("outlier detection").without("outlier_detection");
        let mut checked = bare().named("health checks");
        checked.service.push(("health_check", "{ http: /health }"));
        let defaults = Self::defaults_of(group, load_balancer);
        vec![
            bare(),
            bare().named("3 retries, no budget").with("retry", naive),
            bare().named("retries").with("retry", retry.clone()),
            bare().named("hedging").with("hedge", "{}"),
            bare().named("breaker").with("circuit_breaker", "{}"),
            bare().named("breaker, slow calls too").with("circuit_breaker", SLOW_CALLS),
            checked,
            outliers(),
            outliers().named("outlier detection, slow start").with("slow_start", "{}"),
            bare().named("bulkhead").without("bulkhead"),
            defaults.clone(),
            defaults.named("all of ours").with("retry", retry).with("circuit_breaker", "{}"),
        ]
    }

    /// A service that says nothing but its balancer.
    fn defaults_of(group: &'static str, load_balancer: &'static str) -> Self {
        let bare = Self::bare(group, load_balancer).named("our defaults");
        bare.without("retry").without("bulkhead").without("outlier_detection")
    }

    /// The defaults of ours with one thing else, for the scenario in which they do worse than nothing.
    pub fn parted() -> Vec<Self> {
        let row = |name| Self::defaults_of("our defaults", "peak_ewma").named(name);
        let bulkhead = |name, bulkhead: &str| row(name).with("bulkhead", bulkhead);
        vec![
            row("as they are"),
            row("without retries").with("retry", "off"),
            row("without outlier detection").with("outlier_detection", "off"),
            row("without panic threshold").with("panic_threshold", "off"),
            row("without bulkhead").with("bulkhead", "off"),
            row("without bulkhead and outlier detection")
                .with("bulkhead", "off")
                .with("outlier_detection", "off"),
            bulkhead("nobody waits", "{ max_pending: 0 }"),
            bulkhead("2048 requests", "{ max_requests: 2048, max_connections: 2048 }"),
            bulkhead("4096 requests", "{ max_requests: 4096, max_connections: 4096 }"),
            bulkhead("11 an endpoint", "{ endpoint: { max_requests: 11 } }"),
            bulkhead("15 an endpoint", "{ endpoint: { max_requests: 15 } }"),
            bulkhead("20 an endpoint", "{ endpoint: { max_requests: 20 } }"),
        ]
    }

    /// With nothing of ours, not even by default.
    fn foreign(group: &'static str, load_balancer: &'static str) -> Self {
        let row = Self::bare(group, load_balancer);
        ["hedge", "circuit_breaker", "slow_start", "adaptive_concurrency"]
            .into_iter()
            .fold(row, |row, key| row.with(key, "off"))
    }

    fn envoy() -> [Self; 2] {
        // What waits for a connection waits until the route's timeout.
        let row = |balancer| {
            Self::foreign("Envoy", balancer)
                .with("timeout", "{ request: 15s, connect: 5s }")
                .with(
                    "bulkhead",
                    "{ max_requests: 1024, max_connections: 1024, max_pending: 1024, queue_timeout: 15s, \
                     codel: off, endpoint: { max_requests: off, max_connections: off } }",
                )
                .with("panic_threshold", "50%")
        };
        let defaults = row("round_robin").named("defaults");
        let mut set = row("least_request")
            .named("outlier detection, retries")
            .with("retry", foreign_retry(1, RETRY_ANYTHING, "base: 25ms, max: 250ms", NO_BUDGET))
            .with("outlier_detection", format!("{{ {OUTLIERS}, {SUCCESS_RATE} }}"));
        set.foreign.parallel_retries = Some(3);
        [defaults, set]
    }

    fn istio() -> [Self; 2] {
        let on = "on: [connect_failure, refused_stream, 503]";
        let defaults = Self::foreign("Istio", "least_request")
            .named("defaults")
            .with("timeout", "{ request: off, connect: 10s }")
            .with("panic_threshold", "off")
            .with("retry", foreign_retry(2, on, "base: 25ms, max: 250ms", NO_BUDGET));
        let outliers = format!("{{ {OUTLIERS}, success_rate: off }}");
        let set = defaults.clone().named("outlier detection").with("outlier_detection", outliers);
        [defaults, set]
    }

    fn linkerd() -> [Self; 2] {
        let mut defaults = Self::foreign("Linkerd", "peak_ewma")
            .named("defaults")
            .with("timeout", "{ request: off, connect: 1s }")
            .with("panic_threshold", "off");
        defaults.foreign.failures_count_as_fast = true;
        let budget = "ratio: 20%, min_per_second: 10";
        let set = defaults
            .clone()
            .named("failure accrual, retries")
            .with("retry", foreign_retry(100, RETRY_ANYTHING, "base: 0s, max: 0s", budget))
            .with("circuit_breaker", ACCRUAL);
        [defaults, set]
    }

    /// The rows of the table.
    pub fn all() -> Vec<Self> {
        let balancers = [
            ("round robin", "round_robin"),
            ("least request", "least_request"),
            ("peak EWMA", "peak_ewma"),
        ];
        let ours = balancers.into_iter().flat_map(|(group, name)| Self::ours(group, name));
        let ewma = || Self::bare("peak EWMA", "peak_ewma");
        let others = [
            ewma()
                .named("outlier detection of a tenth")
                .with("outlier_detection", "{ max_ejected: 10% }"),
            ewma()
                .named("adaptive concurrency")
                .without("bulkhead")
                .with("adaptive_concurrency", "{}"),
        ];
        ours.chain(others)
            .chain(Self::envoy())
            .chain(Self::istio())
            .chain(Self::linkerd())
            .collect()
    }
}

/// Retries with every value, so that they stay what they are when ours change.
fn foreign_retry(max: u32, on: &str, backoff: &str, budget: &str) -> String {
    format!(
        "{{ max_retries: {max}, {on}, methods: all, per_try_timeout: off, backoff: {{ {backoff} }}, \
         max_retry_after: 1s, budget: {{ {budget} }} }}"
    )
}

const SLOW_CALLS: &str = "{ failure_rate: 50%, slow_call_rate: 50%, slow_call: 300ms }";
const NO_BUDGET: &str = "ratio: 100%, min_per_second: 1000000";
/// Envoy's, which Istio takes over; every value, too.
const OUTLIERS: &str = "consecutive_5xx: 5, consecutive_gateway_errors: off, failure_percentage: off, \
                        interval: 10s, ejection_time: 30s, max_ejection_time: 5m, max_ejected: 10%";
const SUCCESS_RATE: &str =
    "success_rate: { deviations: 1.9, min_gap: 0%, min_endpoints: 5, min_calls: 100 }";
/// Linkerd's; nothing but failures in a row counts.
const ACCRUAL: &str = "{ scope: endpoint, consecutive_failures: 7, open_for: 1s, max_open_for: 60s, probes: 1, \
                       failures: [5xx, connect_failure, refused_stream, reset, timeout] }";
