//! The command line.

mod cli;

use std::collections::BTreeSet;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use pilotfish::app::{self, LogLevel, Options, StartError};
use pilotfish::config::{self, load::Origin};
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::prelude::*;

/// Most of a request is short-lived and small, on one thread: what this allocator is made for.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A sidecar proxy: governs any service without a change to it.
#[derive(Parser)]
#[command(name = "pilotfish", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Run the proxy, from a file or for one service named here.
    Run(Run),
    /// Check a configuration and tell every mistake in it.
    Check {
        #[command(flatten)]
        file: File,
    },
    /// Print where services run, as a proxy that runs knows it.
    Endpoints(cli::endpoints::Endpoints),
    /// Print the JSON Schema of the configuration, for editors.
    Schema,
    /// Print the version.
    Version,
}

#[derive(Args)]
struct File {
    /// The configuration file.
    #[arg(short, long = "config", env = "PILOTFISH_CONFIG", value_name = "FILE")]
    config: PathBuf,
}

#[derive(Args)]
struct Run {
    /// The configuration file; it is read again when it changes.
    #[arg(
        short,
        long,
        env = "PILOTFISH_CONFIG",
        value_name = "FILE",
        conflicts_with_all = ["service", "port", "registry"]
    )]
    config: Option<PathBuf>,
    /// Name of the app, instead of a file.
    #[arg(long, requires = "port")]
    service: Option<String>,
    /// Port of the app on this host.
    #[arg(long, requires = "service")]
    port: Option<u16>,
    /// Who knows where services run, as in consul://127.0.0.1:8500; a directory of this host by default.
    #[arg(long, requires = "service", value_name = "URL")]
    registry: Option<String>,
    /// What our own log tells, as in info or info,pilotfish=debug.
    #[arg(long, env = "PILOTFISH_LOG", default_value = "info", value_name = "LEVEL")]
    log: String,
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Action::Run(run) => run_proxy(run),
        Action::Check { file } => check(file.config),
        Action::Endpoints(endpoints) => match endpoints.run() {
            Ok(text) => print(&text),
            Err(error) => fail(&format!("error: {error}\n"), 1),
        },
        Action::Schema => print(&format!("{:#}\n", config::json_schema())),
        Action::Version => print(&format!("pilotfish {}\n", env!("CARGO_PKG_VERSION"))),
    }
}

fn run_proxy(run: Run) -> ExitCode {
    // Dropped last, it writes what is left.
    let (level, _written) = match log_to_stderr(&run.log) {
        Ok(started) => started,
        Err(error) => return fail(&format!("error: --log {}: {error}\n", run.log), 2),
    };
    let origin = match (run.config, run.service, run.port) {
        (Some(path), ..) => Origin::File(path),
        (None, Some(name), Some(port)) => {
            Origin::Text(for_service(&name, port, run.registry.as_deref()))
        }
        _ => {
            let help = "say what to govern: --config FILE, or --service NAME --port PORT";
            return fail(&format!("error: {help}\n"), 2);
        }
    };
    let options = Options { origin, signals: true, log_level: Some(level) };
    match app::start(options) {
        Ok(running) => {
            if running.wait().is_ok() {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
        Err(StartError::Config(refused)) => fail(&refused.pretty, 1),
        Err(error) => fail(&format!("error: {error}\n"), 1),
    }
}

/// The smallest configuration. The name is quoted as JSON, which is YAML too.
fn for_service(name: &str, port: u16, registry: Option<&str>) -> String {
    let quoted = serde_json::Value::from;
    let registry = registry.map(|url| format!("registry: {}\n", quoted(url)));
    format!("service: {{ name: {}, port: {port} }}\n{}", quoted(name), registry.unwrap_or_default())
}

fn check(path: PathBuf) -> ExitCode {
    let name = path.display().to_string();
    match Origin::File(path).load(&BTreeSet::new(), None, 1, std::io::stderr().is_terminal()) {
        Ok(_) => print(&format!("{name}: good\n")),
        Err(refused) => fail(&refused.pretty, 1),
    }
}

/// Lines of our own log that may wait for whoever reads it.
const LOG_LINES: usize = 2048;

/// Our own log goes to stderr: stdout may be the access log. It has a thread of its own, so that a pipe
/// which nobody reads stops neither control nor a worker; what does not fit is dropped.
fn log_to_stderr(directives: &str) -> Result<(LogLevel, WorkerGuard), String> {
    let filter = EnvFilter::try_new(directives).map_err(|error| error.to_string())?;
    let (filter, handle) = tracing_subscriber::reload::Layer::new(filter);
    // The default's room for 128,000 lines is 4 MB, taken at once.
    let (writer, guard) =
        NonBlockingBuilder::default().buffered_lines_limit(LOG_LINES).finish(std::io::stderr());
    let to_stderr = tracing_subscriber::fmt::layer()
        .with_writer(writer)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    // What these warn of we tell ourselves, once, and with what to do; some of it anybody can provoke.
    let ours = filter_fn(|line| {
        !["kube_client", "hickory_"].iter().any(|theirs| line.target().starts_with(theirs))
    });
    tracing_subscriber::registry().with(filter).with(ours).with(to_stderr).init();
    let of = handle.clone();
    let level = LogLevel {
        get: Box::new(move || of.with_current(ToString::to_string).unwrap_or_default()),
        set: Box::new(move |text| {
            let filter = EnvFilter::try_new(text).map_err(|error| error.to_string())?;
            handle.reload(filter).map_err(|error| error.to_string())
        }),
    };
    Ok((level, guard))
}

fn print(text: &str) -> ExitCode {
    // A reader that has seen enough (`| head`) is no failure.
    let _ = std::io::stdout().write_all(text.as_bytes());
    ExitCode::SUCCESS
}

fn fail(text: &str, code: u8) -> ExitCode {
    let _ = std::io::stderr().write_all(text.as_bytes());
    ExitCode::from(code)
}
