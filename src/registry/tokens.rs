//! Tokens by their own owners: another one, which there are, one less, one in place of another.

use std::{sync::Arc, time::Duration};

use axum::{Json, extract::State, http::StatusCode};
use uuid::Uuid;

use super::{
    Registry,
    accounts::{self, Shown},
    resource_db::{NewToken, Principal},
};
use crate::api::{
    http::{JsonBody, PathIds},
    problem::{Code, Problem},
    token::{MakeToken, Scope, TokenMade, Tokens},
};

/// Longest time that a token may be good for where it has an end.
pub(super) const VALID_MAX_SECONDS: u64 = 10 * 365 * 24 * 3600;

/// Another token for whoever asks, good for as much or less, and for a time if that is stated.
#[utoipa::path(
    post, path = "/v1/tokens", tag = "tokens", request_body = MakeToken, security(("token" = [])),
    responses(
        (status = 201, description = "The token; it is shown only here", body = TokenMade),
        (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn make_token(
    State(registry): State<Arc<Registry>>,
    asker: Shown,
    JsonBody(wish): JsonBody<MakeToken>,
) -> Result<(StatusCode, Json<TokenMade>), Problem> {
    let valid = wish.valid_seconds;
    if let Some(seconds) = valid.filter(|seconds| !(1..=VALID_MAX_SECONDS).contains(seconds)) {
        let detail = format!("valid_seconds: 1 to {VALID_MAX_SECONDS}, not {seconds}");
        return Err(Problem::new(Code::InvalidRequest, detail));
    }
    registry.another_token(asker, wish.scope, valid.map(Duration::from_secs), false).await
}

/// A token in the place of the one that asks, which is good until the new one is used for the first time.
#[utoipa::path(
    post, path = "/v1/tokens/rotate", tag = "tokens", security(("token" = [])),
    responses(
        (status = 201, description = "The token; it is shown only here", body = TokenMade),
        (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn rotate_token(
    State(registry): State<Arc<Registry>>,
    asker: Shown,
) -> Result<(StatusCode, Json<TokenMade>), Problem> {
    registry.another_token(asker, Scope::Full, None, true).await
}

/// The tokens of whoever asks.
#[utoipa::path(
    get, path = "/v1/tokens", tag = "tokens", security(("token" = [])),
    responses(
        (status = 200, description = "The tokens, without what is secret in them", body = Tokens),
        (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn tokens(
    State(registry): State<Arc<Registry>>,
    asker: Shown,
) -> Result<Json<Tokens>, Problem> {
    Ok(Json(Tokens { tokens: registry.db.tokens_beside(asker.token).await? }))
}

/// Revokes one of one's own tokens, be it the one that asks; an administrator revokes anybody's.
#[utoipa::path(
    delete, path = "/v1/tokens/{token}", tag = "tokens", params(("token" = Uuid, Path)), security(("token" = [])),
    responses(
        (status = 204, description = "It is good for nothing any more"),
        (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn revoke_token(
    State(registry): State<Arc<Registry>>,
    PathIds(token): PathIds<Uuid>,
    asker: Shown,
) -> Result<StatusCode, Problem> {
    let own = registry.db.tokens_beside(asker.token).await?;
    let may = asker.principal == Principal::Administrator || own.iter().any(|view| view.id == token);
    if may && registry.db.revoke_token(token).await? {
        return Ok(StatusCode::NO_CONTENT);
    }
    Err(Problem::new(Code::NotFound, format!("there is no token {token} of yours")))
}

impl Registry {
    async fn another_token(
        &self,
        asker: Shown,
        scope: Scope,
        valid: Option<Duration>,
        replacing: bool,
    ) -> Result<(StatusCode, Json<TokenMade>), Problem> {
        let token = accounts::new_token(asker.principal.role());
        // A token that has an end makes none that outlives it.
        let wished = valid.and_then(|valid| self.clock.now().checked_add(valid).ok());
        let expires_at = [wished, asker.expires_at].into_iter().flatten().min();
        let new = NewToken { id: Uuid::now_v7(), digest: accounts::digest(&token), scope, expires_at };
        self.db.add_token_beside(asker.token, new, replacing).await?;
        Ok((StatusCode::CREATED, Json(TokenMade { id: new.id, token, scope, expires_at })))
    }
}
