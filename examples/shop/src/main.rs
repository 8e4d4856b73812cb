//! The shop in one command: it builds and starts a gateway and three services, each instance behind a sidecar of its
//! own, places orders, kills an instance, and tells what happened.

#![allow(clippy::disallowed_methods, reason = "a launcher reads the clock")]

mod admin;
mod chaos;
mod config;
mod customer;
mod directory;
mod holder;
mod place;
mod ports;
mod process;
mod programs;
mod stop;
mod story;
mod town;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use chaos::Chaos;
use clap::{Args, Parser, Subcommand};

use config::{Backend, Registry};
use place::{Places, Service};
use programs::Programs;
use stop::{Reason, Stop};
use town::{Settings, Town};

/// Writes a line to standard output. Where nobody reads it any more, that is no reason to end in disorder.
#[macro_export]
macro_rules! say {
    ($($arg:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stdout(), $($arg)*);
    }};
}

/// Builds and starts the shop, and shows what its sidecars do.
#[derive(Parser)]
#[command(name = "shop", version)]
struct Cli {
    #[command(subcommand)]
    command: Option<Action>,
    #[command(flatten)]
    options: Options,
    /// End after the story: with 0 where everything held, else with 1.
    #[arg(long)]
    exit: bool,
}

#[derive(Subcommand)]
enum Action {
    /// Let orders flow while one process after the other is killed or frozen; then the same without sidecars.
    Chaos(Chaos),
}

#[derive(Args)]
struct Options {
    /// The gateway's port; 0: any that is free.
    #[arg(long, global = true, default_value_t = 8080)]
    port: u16,
    /// The first of the ports of all else, ten for each instance; 0: any that are free.
    #[arg(long, global = true, default_value_t = 23000)]
    base_port: u16,
    /// Where pilotfish and the services are; else they are built.
    #[arg(long, global = true, value_name = "DIR")]
    bin_dir: Option<PathBuf>,
    /// Where instances are announced, such as consul://127.0.0.1:8500; else a directory.
    #[arg(long, global = true, value_name = "URL", value_parser = Registry::from_url)]
    registry: Option<Registry>,
    /// A service's database, by its sidecars, such as user-service=postgres://...; else SQLite.
    #[arg(long, global = true, value_name = "SERVICE=URL", value_parser = database)]
    database: Vec<(Service, Backend)>,
    /// The broker of the events, by the sidecars, such as amqp://127.0.0.1; else none.
    #[arg(long, global = true, value_name = "URL", value_parser = Backend::broker)]
    amqp: Option<Backend>,
}

fn database(text: &str) -> Result<(Service, Backend), String> {
    let (name, url) = text.split_once('=').unwrap_or((text, ""));
    let service = Service::ALL.into_iter().find(|service| service.name() == name);
    let service = service.ok_or_else(|| {
        format!("{name} is none of {}", Service::ALL.map(Service::name).join(", "))
    })?;
    Ok((service, Backend::database(url)?))
}

fn main() -> ExitCode {
    process::become_program();
    let cli = Cli::parse();
    // One thread, which lives as long as we do: see `process::command`.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.map_err(|error| error.to_string()).and_then(|runtime| runtime.block_on(run(cli)))
    {
        Ok(code) => code,
        Err(error) => {
            eprintln!("shop: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> Result<ExitCode, String> {
    let mut stop = Stop::watch()?;
    // Outside of what may be broken off, so that it is closed in order whatever happens.
    let mut town = None;
    let stays = !cli.exit && cli.command.is_none();
    let mut ended = tokio::select! {
        held = tell(cli, &mut town) => held.map(Ended::Told),
        reason = stop.asked() => Ok(Ended::Asked(reason)),
    };
    if let (true, Ok(Ended::Told(_)), Some(town)) = (stays, &ended, &mut town) {
        story::print_addresses(town);
        ended = tokio::select! {
            lost = story::keep(town) => lost.map(|never| match never {}),
            _ = stop.asked() => ended,
        };
    }
    if let Some(mut town) = town {
        let closing = Instant::now();
        // Who asks twice does not want to wait.
        tokio::select! {
            () = town.close() => {}
            _ = stop.asked() => {}
        }
        drop(town);
        let took = closing.elapsed().as_secs_f32();
        say!("\n{:<10}  {:<68} {took:>6.1} s", "closed", "no process and no file is left");
    }
    ended.map(|ended| match ended {
        Ended::Told(true) => ExitCode::SUCCESS,
        Ended::Told(false) => ExitCode::FAILURE,
        Ended::Asked(reason) => reason.exit_code().into(),
    })
}

enum Ended {
    /// What there is to tell, and whether everything held.
    Told(bool),
    /// Before that.
    Asked(Reason),
}

/// Whether everything held.
async fn tell(cli: Cli, town: &mut Option<Town>) -> Result<bool, String> {
    let Options { port, base_port, bin_dir, registry, database: databases, amqp } = cli.options;
    let places = Places::choose(port, base_port, &place::TWO)?;
    // Builds may take minutes.
    ports::check(&places.wanted())?;
    let programs = match &bin_dir {
        Some(directory) => Programs::of(directory)?,
        None => Programs::build().await?,
    };
    let settings = Settings { programs, places, registry, databases, amqp, governed: true };
    match cli.command {
        Some(Action::Chaos(chaos)) => chaos::run(town, settings, chaos).await,
        None => story::tell(town.insert(Town::prepare(settings)?)).await,
    }
}
