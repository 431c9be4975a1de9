//! One's own tokens at the registry.

use std::process::ExitCode;

use super::{
    CliError,
    args::TokenCommand,
    context::Context,
    report::{Report, line, table},
};
use crate::api::token::{MakeToken, Tokens};

pub(super) async fn token(context: &Context, command: TokenCommand) -> Result<ExitCode, CliError> {
    let registry = context.registry()?;
    match command {
        TokenCommand::Make { scope, duration } => {
            let wish = MakeToken { scope, valid_seconds: duration.map(|duration| duration.seconds) };
            line(registry.make_token(&wish).await?.token.reveal())?;
        }
        TokenCommand::List => context.print(&registry.tokens().await?)?,
        TokenCommand::Revoke { id } => registry.revoke_token(id).await?,
        TokenCommand::Rotate => {
            let made = registry.rotate_token().await?;
            context.keep_token(&made.token)?;
            // Its first use ends the old one.
            context.registry()?.tokens().await?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

impl Report for Tokens {
    fn text(&self) -> String {
        let rows = self.tokens.iter().map(|token| {
            [
                token.id.to_string(),
                token.scope.to_string(),
                token.created_at.to_string(),
                token.expires_at.map_or_else(|| "it is revoked".to_owned(), |at| at.to_string()),
            ]
        });
        table(["TOKEN", "SCOPE", "MADE", "GOOD UNTIL"], rows)
    }
}
