use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    common::web::run("inventory-service", 3003, inventory_service::MIGRATIONS, async |database| {
        let inventory = inventory_service::Inventory::new(database);
        if let Some(url) = common::setting("AMQP_URL") {
            tokio::spawn(common::events::consume(url, inventory.handler()));
        }
        Ok(inventory_service::router(inventory))
    })
    .await
}
