use axum::Router;
use common::web::{self, Problem};
use tonic::service::Routes;
use tonic::{Code, Request, Response, Status, async_trait};

use crate::users::{self, Users};
use proto::user_service_server::{UserService, UserServiceServer};
use proto::{
    ChargeReply, ChargeRequest, CreateUserRequest, GetUserRequest, RefundReply, RefundRequest, User,
};

mod proto {
    tonic::include_proto!("shop.v1");
}

pub fn router(users: Users) -> Router {
    Routes::new(UserServiceServer::new(users)).into_axum_router()
}

#[async_trait]
impl UserService for Users {
    async fn get_user(&self, request: Request<GetUserRequest>) -> Result<Response<User>, Status> {
        let user = self.get(&request.into_inner().id).await.map_err(status)?;
        Ok(Response::new(user.into()))
    }

    async fn create_user(
        &self,
        request: Request<CreateUserRequest>,
    ) -> Result<Response<User>, Status> {
        let new = request.into_inner();
        let user = self.create(new.name, new.email, new.balance).await.map_err(status)?;
        Ok(Response::new(user.into()))
    }

    async fn charge(
        &self,
        request: Request<ChargeRequest>,
    ) -> Result<Response<ChargeReply>, Status> {
        let ChargeRequest { idempotency_key, user_id, amount } = request.into_inner();
        let key = web::key(&idempotency_key).map_err(status)?;
        Users::charge(self, key, &user_id, amount).await.map_err(status)?;
        Ok(Response::new(ChargeReply { user_id, amount }))
    }

    async fn refund(
        &self,
        request: Request<RefundRequest>,
    ) -> Result<Response<RefundReply>, Status> {
        let key = request.into_inner().idempotency_key;
        let refunded =
            Users::refund(self, web::key(&key).map_err(status)?).await.map_err(status)?;
        Ok(Response::new(RefundReply { refunded }))
    }
}

impl From<users::User> for User {
    fn from(user: users::User) -> Self {
        Self { id: user.id, name: user.name, email: user.email, balance: user.balance }
    }
}

fn status(problem: Problem) -> Status {
    let code = match problem.status.as_u16() {
        400 => Code::InvalidArgument,
        402 | 409 => Code::FailedPrecondition,
        404 => Code::NotFound,
        422 => Code::AlreadyExists,
        503 => Code::Unavailable,
        _ => Code::Internal,
    };
    Status::new(code, problem.text)
}
