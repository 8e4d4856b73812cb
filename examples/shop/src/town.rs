//! The shop's processes: a gateway, and each instance of each service with a sidecar beside it; or the services alone,
//! for comparison.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use reqwest::Client;
use serde_json::json;

use crate::admin;
use crate::config::{self, Backend, Backends, Registry};
use crate::directory::Directory;
use crate::place::{Place, Places, Service};
use crate::ports;
use crate::process::{Process, Program, how};
use crate::programs::Programs;

/// What no process takes longer for to be ready.
const PATIENCE: Duration = Duration::from_secs(15);
/// What none takes longer for to end.
const GOODBYE: Duration = Duration::from_secs(3);

#[derive(Debug, Clone)]
pub struct Settings {
    pub programs: Programs,
    pub places: Places,
    /// A directory of the run, unless another one is named.
    pub registry: Option<Registry>,
    /// SQLite, unless another one is named.
    pub databases: Vec<(Service, Backend)>,
    pub amqp: Option<Backend>,
    /// Whether there are proxies.
    pub governed: bool,
}

impl Settings {
    fn backends(&self, service: Service) -> Backends<'_> {
        let database = self.databases.iter().find(|(of, _)| *of == service);
        let amqp = self.amqp.as_ref().filter(|_| service.has_events());
        Backends { database: database.map(|(_, url)| url), amqp }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    App,
    Sidecar,
}

pub struct Instance {
    pub place: Place,
    pub app: Process,
    pub sidecar: Option<Process>,
}

impl Instance {
    pub fn part(&mut self, part: Part) -> Option<&mut Process> {
        match part {
            Part::App => Some(&mut self.app),
            Part::Sidecar => self.sidecar.as_mut(),
        }
    }

    pub fn pids(&self) -> impl Iterator<Item = u32> {
        [&self.app].into_iter().chain(self.sidecar.as_ref()).filter_map(Process::pid)
    }

    pub fn kill(&mut self) {
        self.parts().for_each(Process::kill);
    }

    pub fn start_again(&mut self) -> Result<(), String> {
        self.parts().try_for_each(Process::start_again)
    }

    fn parts(&mut self) -> impl Iterator<Item = &mut Process> {
        [&mut self.app].into_iter().chain(self.sidecar.as_mut())
    }
}

pub struct Town {
    pub settings: Settings,
    pub http: Client,
    pub instances: Vec<Instance>,
    pub gateway: Option<Process>,
    // Last: it goes when those that write there have ended.
    pub directory: Directory,
}

impl Town {
    /// Nothing runs yet.
    pub fn prepare(settings: Settings) -> Result<Self, String> {
        ports::check(&settings.places.wanted())?;
        let http = Client::builder().no_proxy().timeout(Duration::from_secs(5)).build();
        let http = http.map_err(|error| error.to_string())?;
        let directory = Directory::make()?;
        Ok(Self { settings, http, instances: Vec::new(), gateway: None, directory })
    }

    /// Starts all, and waits until all are ready and the callers know whom they call.
    pub async fn open(&mut self) -> Result<(), String> {
        let hint = "To see more: PILOTFISH_LOG=debug (proxies), RUST_BACKTRACE=1 (services).";
        self.try_open().await.map_err(|error| format!("{error}\n{hint}"))
    }

    async fn try_open(&mut self) -> Result<(), String> {
        for place in self.settings.places.instances.clone() {
            let app = Process::start(self.app(&place))?;
            self.instances.push(Instance { place, app, sidecar: None });
        }
        // A sidecar asks its app but once a second whether it is well, so that it had better find it. Where the app
        // reaches its database by the sidecar, it is the other way round.
        let first = !self.settings.databases.is_empty() || self.settings.amqp.is_some();
        if first {
            self.start_sidecars()?;
        }
        for instance in &mut self.instances {
            listens(&mut instance.app).await?;
        }
        if !self.settings.governed {
            return Ok(());
        }
        if !first {
            self.start_sidecars()?;
        }
        self.gateway = Some(Process::start(self.front()?)?);
        self.proxies_are_ready().await
    }

    fn start_sidecars(&mut self) -> Result<(), String> {
        for at in 0..self.instances.len() {
            if self.settings.governed {
                let program = self.sidecar(&self.instances[at].place)?;
                self.instances[at].sidecar = Some(Process::start(program)?);
            }
        }
        Ok(())
    }

    async fn proxies_are_ready(&mut self) -> Result<(), String> {
        let Places { gateway, instances, .. } = self.settings.places.clone();
        let count = |service| instances.iter().filter(|it| it.service == service).count();
        let mut proxies: Vec<_> =
            self.gateway.iter_mut().map(|it| (it, gateway, &Service::ALL[..])).collect();
        for Instance { place, sidecar, .. } in &mut self.instances {
            let called: &[Service] = match place.service {
                Service::Order => &[Service::User, Service::Inventory],
                Service::User | Service::Inventory => &[],
            };
            proxies.extend(sidecar.iter_mut().map(|it| (it, place.ports, called)));
        }
        let http = &self.http;
        for (proxy, ports, _) in &mut proxies {
            proxy.until(PATIENCE, || admin::ready(http, ports.metrics)).await?;
        }
        for (proxy, ports, called) in &mut proxies {
            for service in *called {
                let knows = || admin::knows(http, ports.admin, *service, count(*service));
                proxy.until(PATIENCE, knows).await?;
            }
        }
        Ok(())
    }

    /// Puts goods into the stock, as those in the back of the shop do: not by the gateway.
    pub async fn stock_up(&self, sku: &str, available: i64, price: i64) -> Result<(), String> {
        let inventory = self.settings.places.of(Service::Inventory).next();
        let port = inventory.map(|it| it.ports.app).unwrap_or_default();
        let url = format!("http://127.0.0.1:{port}/stock/{sku}");
        let goods = json!({ "available": available, "price": price });
        let put = self.http.put(url).json(&goods).send().await;
        let put = put.and_then(reqwest::Response::error_for_status);
        put.map(|_| ()).map_err(|error| format!("{sku} cannot be put into the stock: {error}"))
    }

    fn app(&self, place: &Place) -> Program {
        let Place { service, name, ports } = place;
        let Settings { governed, programs, .. } = &self.settings;
        let mut program = self.program(name, programs.service(*service));
        let mut set = |name, value| program.environment.push((name, value));
        let url = |backend: &Backend, port| match governed {
            true => backend.by(port),
            false => backend.direct(),
        };
        let backends = self.settings.backends(*service);
        set("LISTEN", format!("127.0.0.1:{}", ports.app));
        set(
            "DATABASE_URL",
            match backends.database {
                Some(database) => url(database, ports.database),
                None => {
                    let path = self.directory.path().display();
                    format!("sqlite://{path}/{service}.db?mode=rwc")
                }
            },
        );
        if let Some(amqp) = backends.amqp {
            set("AMQP_URL", url(amqp, ports.amqp));
        }
        match (service, governed) {
            (Service::Order, true) => {
                set("http_proxy", format!("http://127.0.0.1:{}", ports.outbound));
            }
            // Each one has one neighbour, as somebody would write it down.
            (Service::Order, false) => {
                set("USER_SERVICE_URL", self.neighbour(place, Service::User));
                set("INVENTORY_SERVICE_URL", self.neighbour(place, Service::Inventory));
            }
            (Service::User | Service::Inventory, _) => {}
        }
        program
    }

    /// Of the instances of `service` the one with the number of ours, as far as there are so many.
    fn neighbour(&self, place: &Place, service: Service) -> String {
        let places = &self.settings.places;
        let own = places.of(place.service).position(|it| it.name == place.name).unwrap_or(0);
        let all: Vec<u16> = places.of(service).map(|it| it.ports.app).collect();
        format!("http://127.0.0.1:{}", all[own % all.len().max(1)])
    }

    fn sidecar(&self, place: &Place) -> Result<Program, String> {
        let backends = self.settings.backends(place.service);
        let access_log = self.file(&place.name, "access.log");
        let yaml = config::sidecar(place, &backends, &self.registry(), &access_log);
        self.proxy(&place.name, &format!("{}.sidecar", place.name), &yaml)
    }

    fn front(&self) -> Result<Program, String> {
        let access_log = self.file("gateway", "access.log");
        let yaml = config::gateway(&self.settings.places, &self.registry(), &access_log);
        self.proxy("gateway", "gateway", &yaml)
    }

    /// A proxy with the configuration `file.yaml`.
    fn proxy(&self, file: &str, name: &str, yaml: &str) -> Result<Program, String> {
        let path = self.file(file, "yaml");
        fs::write(&path, yaml).map_err(|error| format!("{}: {error}", path.display()))?;
        let mut program = self.program(name, self.settings.programs.pilotfish());
        program.arguments = vec!["run".into(), "-c".into(), path.into()];
        Ok(program)
    }

    fn registry(&self) -> Registry {
        let own = || Registry::Directory(self.directory.path().join("services"));
        self.settings.registry.clone().unwrap_or_else(own)
    }

    fn file(&self, name: &str, extension: &str) -> PathBuf {
        self.directory.path().join(format!("{name}.{extension}"))
    }

    fn program(&self, name: &str, path: PathBuf) -> Program {
        Program {
            name: name.to_owned(),
            path,
            arguments: Vec::new(),
            environment: Vec::new(),
            directory: self.directory.path().to_owned(),
            log: self.file(name, "log"),
        }
    }

    /// How many processes there are.
    pub fn size(&mut self) -> usize {
        self.all().count()
    }

    fn all(&mut self) -> impl Iterator<Item = &mut Process> {
        self.gateway.iter_mut().chain(self.instances.iter_mut().flat_map(Instance::parts))
    }

    /// What has ended that nobody has ended, and how. Each is told once.
    pub fn lost(&mut self) -> Vec<String> {
        let ended = |it: &mut Process| {
            let how = how(it.ended()?);
            Some(format!("{} {how}", it.program.name))
        };
        self.all().filter_map(ended).collect()
    }

    /// What does not run.
    pub fn start_again(&mut self) -> Result<(), String> {
        self.all().try_for_each(Process::start_again)
    }

    /// Ends all: the gateway first, then who calls, then who is called, and of each the app before its sidecar, by
    /// which it may still have something to say.
    pub async fn close(&mut self) {
        let deadline = Instant::now() + GOODBYE;
        let mut waves: [Vec<&mut Process>; 5] = Default::default();
        waves[0].extend(self.gateway.as_mut());
        for Instance { place, app, sidecar } in &mut self.instances {
            let first = if place.service == Service::Order { 1 } else { 3 };
            waves[first].push(app);
            waves[first + 1].extend(sidecar.as_mut());
        }
        for wave in &mut waves {
            wave.iter_mut().for_each(|process| process.terminate());
            for process in wave {
                process.end_by(deadline).await;
            }
        }
    }
}

/// A service says so on its first line once it serves.
pub async fn listens(app: &mut Process) -> Result<(), String> {
    let log = app.log();
    let listens = || async {
        match log.read().contains(" listens on ") {
            true => Ok(()),
            false => Err("it does not say that it listens".to_owned()),
        }
    };
    app.until(PATIENCE, listens).await
}
