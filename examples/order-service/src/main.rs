use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    common::web::run("order-service", 3002, order_service::MIGRATIONS, order_service::start).await
}
