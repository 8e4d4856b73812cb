//! Several servers that know the same: one is asked, and the next where it does not answer.

use std::cell::Cell;
use std::path::Path;

use bytes::Bytes;
use http::Response;

use super::http::{Ask, Client, refused};
use super::{Error, Reason};
use crate::config::units::{Address, HttpUrl};

pub struct Servers {
    /// At least one.
    clients: Vec<Client>,
    /// Who answered last.
    current: Cell<usize>,
}

impl Servers {
    /// # Errors
    /// There is none, or the certificates cannot be read.
    pub fn new(addresses: &[HttpUrl], ca_file: Option<&Path>) -> Result<Self, Error> {
        if addresses.is_empty() {
            return Err(Error::new(Reason::Refused, "no server is named"));
        }
        let client = |url: &HttpUrl| Client::new(url.clone(), ca_file);
        let clients = addresses.iter().map(client).collect::<Result<_, _>>()?;
        Ok(Self { clients, current: Cell::new(0) })
    }

    /// Who is asked first now, by its place in the list.
    pub fn current(&self) -> usize {
        self.current.get()
    }

    /// The one that is asked first now.
    pub fn client(&self) -> &Client {
        &self.clients[self.current.get()]
    }

    /// Where it is.
    pub fn address(&self) -> &Address {
        &self.client().base().address
    }

    /// The answer of the first that can answer, whatever it says; the error of the last if none can.
    ///
    /// # Errors
    /// None came in time, or all say that they cannot.
    pub async fn ask(&self, ask: Ask<'_>) -> Result<Response<Bytes>, Error> {
        let first = self.current.get();
        let mut failed = None;
        for at in (0..self.clients.len()).map(|step| (first + step) % self.clients.len()) {
            let client = &self.clients[at];
            match client.ask(ask.clone()).await {
                Ok(answer) if !answer.status().is_server_error() => {
                    self.current.set(at);
                    return Ok(answer);
                }
                Ok(answer) => failed = Some(refused(&client.base().to_string(), &answer)),
                Err(error) => failed = Some(error),
            }
            // At once: who asks may not wait for the next answer.
            self.turn_from(at);
        }
        Err(failed.unwrap_or_else(|| Error::new(Reason::Refused, "no server is named")))
    }

    /// The one at `place` did not do well: the next one is asked first, if that was not changed meanwhile.
    pub fn turn_from(&self, place: usize) {
        if self.current.get() == place {
            self.current.set((place + 1) % self.clients.len());
        }
    }
}
