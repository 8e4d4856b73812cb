use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    common::web::run("user-service", 3001, user_service::MIGRATIONS, async |database| {
        Ok(user_service::router(database))
    })
    .await
}
