//! Response flags: why an answer is not simply the upstream's, in Envoy's letters.

/// One reason. A request has at most one, which decided its answer, and `URX` beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Flag {
    /// `UH`: no healthy endpoint.
    NoHealthyUpstream,
    /// `UF`: connecting to the upstream failed.
    UpstreamConnectionFailure,
    /// `UO`: overflow of a bulkhead, or an open circuit breaker.
    UpstreamOverflow,
    /// `NR`: no route.
    NoRoute,
    /// `UC`: the upstream closed the connection.
    UpstreamConnectionTermination,
    /// `UT`: the upstream's time was up.
    UpstreamTimeout,
    /// `LR`: we reset the upstream's stream.
    LocalReset,
    /// `UR`: the upstream reset the stream.
    UpstreamRemoteReset,
    /// `DC`: the client went away.
    DownstreamConnectionTermination,
    /// `DPE`: the client's request breaks its protocol.
    DownstreamProtocolError,
    /// `RL`: over a rate limit.
    RateLimited,
    /// `FI`: an injected abort.
    FaultInjected,
    /// `DI`: an injected delay.
    DelayInjected,
    /// `URX`: all retries were used up.
    UpstreamRetryLimitExceeded,
    /// `UAEX`: not authorised.
    Unauthorized,
    /// `SI`: the stream was idle for too long.
    StreamIdleTimeout,
}

impl Flag {
    /// The letters, as they stand in the log.
    pub const fn as_str(self) -> &'static str {
        match self {
            Flag::NoHealthyUpstream => "UH",
            Flag::UpstreamConnectionFailure => "UF",
            Flag::UpstreamOverflow => "UO",
            Flag::NoRoute => "NR",
            Flag::UpstreamConnectionTermination => "UC",
            Flag::UpstreamTimeout => "UT",
            Flag::LocalReset => "LR",
            Flag::UpstreamRemoteReset => "UR",
            Flag::DownstreamConnectionTermination => "DC",
            Flag::DownstreamProtocolError => "DPE",
            Flag::RateLimited => "RL",
            Flag::FaultInjected => "FI",
            Flag::DelayInjected => "DI",
            Flag::UpstreamRetryLimitExceeded => "URX",
            Flag::Unauthorized => "UAEX",
            Flag::StreamIdleTimeout => "SI",
        }
    }
}
