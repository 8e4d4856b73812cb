//! Users and their money, by REST and by gRPC on one port.

use axum::Router;
use common::database::Database;

mod grpc;
mod rest;
mod users;

pub const MIGRATIONS: &[&str] = &[include_str!("../migrations/1_users.sql")];

pub fn router(database: Database) -> Router {
    let users = users::Users::new(database);
    rest::router(users.clone()).merge(grpc::router(users))
}
