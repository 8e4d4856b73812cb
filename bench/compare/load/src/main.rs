//! The upstream of the comparison, and the loads that wrk and h2load cannot make. It is started by
//! `compare`; alone: `load upstream --http 127.0.0.1:8001 --http 127.0.0.1:8002`.

mod engine;
mod http1;
mod server;

use std::error::Error;
use std::net::SocketAddr;
use std::process::ExitCode;

use engine::Engine;
use lexopt::prelude::*;
use server::{Role, Server};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("load: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let mut arguments = lexopt::Parser::from_env();
    match arguments.next()? {
        Some(Value(command)) if command == "upstream" => upstream(arguments),
        _ => Err("which load? upstream".into()),
    }
}

fn upstream(mut arguments: lexopt::Parser) -> Result<(), Box<dyn Error>> {
    let mut engine = Engine::new()?;
    while let Some(argument) = arguments.next()? {
        let role = match argument {
            Long("http") => Role::Http,
            Long("echo") => Role::Echo,
            Long("source") => Role::Source,
            other => return Err(other.unexpected().into()),
        };
        let address: SocketAddr = arguments.value()?.parse()?;
        engine.listen(address, move || Server::new(role))?;
    }
    println!("ready");
    loop {
        engine.turn(None)?;
    }
}
