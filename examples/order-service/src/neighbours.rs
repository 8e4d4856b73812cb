//! The services that orders need, called by their names. Where they run, how many they are and which of them are well is
//! known to the sidecar, to which `http_proxy` leads.

use std::time::Duration;

use axum::http::StatusCode;
use common::events::Event;
use common::web::Problem;
use common::{Error, setting};
use reqwest::{Client, RequestBuilder};
use serde_json::{Value, json};
use tonic::Code;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::orders::Order;
use proto::user_service_client::UserServiceClient;
use proto::{ChargeRequest, RefundRequest};

mod proto {
    tonic::include_proto!("shop.v1");
}

/// How long one call may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// What became of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// `amount`: what the goods cost, in cents, where they were reserved.
    Done { amount: i64 },
    /// The service says no, and always will to this order.
    Refused(String),
    /// Perhaps it was done, perhaps not.
    Unknown(String),
}

impl Outcome {
    pub fn why(&self) -> &str {
        match self {
            Self::Done { .. } => "",
            Self::Refused(why) | Self::Unknown(why) => why,
        }
    }
}

#[derive(Clone)]
pub struct Neighbours {
    users: UserServiceClient<Channel>,
    http: Client,
    inventory: String,
}

impl Neighbours {
    /// # Errors
    /// A URL that is none.
    pub fn from_environment() -> Result<Self, Error> {
        let url = |name, default: &str| setting(name).unwrap_or_else(|| default.to_owned());
        let users: Uri = url("USER_SERVICE_URL", "http://user-service").parse()?;
        // Clients of HTTP know `http_proxy` of themselves; this is the same for gRPC.
        let endpoint = match setting("http_proxy") {
            Some(proxy) => Endpoint::from_shared(proxy)?.origin(users),
            None => Endpoint::from(users),
        };
        let channel = endpoint.connect_timeout(TIMEOUT).timeout(TIMEOUT).connect_lazy();
        Ok(Self {
            users: UserServiceClient::new(channel),
            http: Client::builder().timeout(TIMEOUT).build()?,
            inventory: url("INVENTORY_SERVICE_URL", "http://inventory-service"),
        })
    }

    pub async fn reserve(&self, order: &Order) -> Outcome {
        let body = json!({ "sku": order.sku, "quantity": order.quantity });
        let request = self.post("/reserve").header("idempotency-key", &order.id).json(&body);
        rest(request).await
    }

    pub async fn release(&self, order: &Order) -> Outcome {
        rest(self.post("/release").header("idempotency-key", &order.id)).await
    }

    pub async fn charge(&self, order: &Order) -> Outcome {
        let request = ChargeRequest {
            idempotency_key: order.id.clone(),
            user_id: order.user_id.clone(),
            amount: order.amount,
        };
        grpc(self.users.clone().charge(request).await)
    }

    pub async fn refund(&self, order: &Order) -> Outcome {
        let request = RefundRequest { idempotency_key: order.id.clone() };
        grpc(self.users.clone().refund(request).await)
    }

    /// # Errors
    /// It may not have been told: 503; or it was, and is refused: the status of the refusal.
    pub async fn tell(&self, event: &Event) -> Result<(), Problem> {
        let away = |error: reqwest::Error| {
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
        };
        let response = self.post("/events").json(event).send().await.map_err(away)?;
        let status = response.status();
        match status.is_success() {
            true => Ok(()),
            false => Err(Problem::new(status, response.text().await.map_err(away)?)),
        }
    }

    fn post(&self, path: &str) -> RequestBuilder {
        self.http.post(format!("{}{path}", self.inventory))
    }
}

async fn rest(request: RequestBuilder) -> Outcome {
    let answered = async {
        let response = request.send().await?;
        Ok::<_, reqwest::Error>((response.status(), response.json::<Value>().await?))
    };
    match answered.await {
        Ok((StatusCode::OK, body)) => {
            Outcome::Done { amount: body["amount"].as_i64().unwrap_or(0) }
        }
        // What the service refuses, it refuses by these; other codes may come from in between.
        Ok((StatusCode::CONFLICT | StatusCode::UNPROCESSABLE_ENTITY, body)) => {
            Outcome::Refused(body["error"].as_str().unwrap_or("refused").to_owned())
        }
        Ok((status, body)) => Outcome::Unknown(format!("{status} {body}")),
        Err(error) => Outcome::Unknown(error.to_string()),
    }
}

fn grpc<T>(answer: Result<tonic::Response<T>, tonic::Status>) -> Outcome {
    match answer {
        Ok(_) => Outcome::Done { amount: 0 },
        Err(status) => match status.code() {
            Code::FailedPrecondition | Code::NotFound | Code::AlreadyExists => {
                Outcome::Refused(status.message().to_owned())
            }
            code => Outcome::Unknown(format!("{code}: {}", status.message())),
        },
    }
}
