//! What is compared: a balancer and the policies around it. Each row is a configuration of Pilotfish, as
//! somebody would type it, and is read and compiled by its own code.

#[derive(Debug, Clone)]
pub struct Settings {
    pub group: &'static str,
    pub name: &'static str,
    pub load_balancer: &'static str,
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
            policy: vec![],
            foreign: Foreign::default(),
        };
        defaults.with("retry", "off").with("bulkhead", "off").with("outlier_detection", "off")
    }

    fn named(self, name: &'static str) -> Self {
        Self { name, ..self }
    }

    fn with(mut self, key: &'static str, value: impl Into<String>) -> Self {
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
        if !self.policy.is_empty() {
            text.push_str("policy:\n");
        }
        for (key, value) in &self.policy {
            text.push_str(&format!("  {key}: {value}\n"));
        }
        text
    }

    fn ours(group: &'static str, load_balancer: &'static str) -> [Self; 7] {
        let bare = || Self::bare(group, load_balancer);
        let naive = format!(
            "{{ max_retries: 3, {RETRY_ANYTHING}, per_try_timeout: 1s, budget: {{ min_per_second: 1000000 }} }}"
        );
        let retry = format!("{{ {RETRY_ANYTHING}, per_try_timeout: 1s }}");
        let defaults = bare().without("retry").without("bulkhead").without("outlier_detection");
        [
            bare(),
            bare().named("3 retries, no budget").with("retry", naive),
            bare().named("retries").with("retry", retry.clone()),
            bare().named("breaker").with("circuit_breaker", "{}"),
            bare().named("outlier detection").without("outlier_detection"),
            defaults.clone().named("our defaults"),
            defaults.named("all of ours").with("retry", retry).with("circuit_breaker", "{}"),
        ]
    }

    fn envoy() -> [Self; 2] {
        let row = |balancer| Self::bare("Envoy", balancer).without("bulkhead");
        let defaults = row("round_robin").named("defaults").with("timeout", "{ connect: 5s }");
        let retry = format!(
            "{{ max_retries: 1, {RETRY_ANYTHING}, budget: {{ min_per_second: 1000000 }} }}"
        );
        let mut set = row("least_request")
            .named("outlier detection, retries")
            .with("timeout", "{ connect: 5s }")
            .with("retry", retry)
            .with("outlier_detection", format!("{{ {OUTLIERS}, {SUCCESS_RATE} }}"));
        set.foreign.parallel_retries = Some(3);
        [defaults, set]
    }

    fn istio() -> [Self; 2] {
        let defaults = Self::bare("Istio", "least_request")
            .named("defaults")
            .with("timeout", "{ request: off, connect: 10s }")
            .with("panic_threshold", "off")
            .with("retry", "{ max_retries: 2, on: [connect_failure, refused_stream, 503], budget: { min_per_second: 1000000 } }");
        let outliers = format!("{{ {OUTLIERS}, success_rate: off }}");
        let set = defaults.clone().named("outlier detection").with("outlier_detection", outliers);
        [defaults, set]
    }

    fn linkerd() -> [Self; 2] {
        let mut defaults = Self::bare("Linkerd", "peak_ewma")
            .named("defaults")
            .with("timeout", "{ request: off, connect: 1s }")
            .with("panic_threshold", "off");
        defaults.foreign.failures_count_as_fast = true;
        let retry = format!(
            "{{ max_retries: 100, {RETRY_ANYTHING}, backoff: {{ base: 0s, max: 0s }}, \
             budget: {{ ratio: 20%, min_per_second: 10 }} }}"
        );
        let set = defaults.clone().named("failure accrual, retries").with("retry", retry).with(
            "circuit_breaker",
            "{ consecutive_failures: 7, open_for: 1s, max_open_for: 60s, probes: 1 }",
        );
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

/// Envoy's, which Istio takes over. Written out, so that they stay what they are when ours change.
const OUTLIERS: &str = "consecutive_5xx: 5, interval: 10s, ejection_time: 30s, \
                        max_ejection_time: 5m, max_ejected: 10%";
const SUCCESS_RATE: &str = "success_rate: { deviations: 1.9, min_endpoints: 5, min_calls: 100 }";
