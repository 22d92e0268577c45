//! Outgoing HTTP: heartbeats and webhooks. The only module that knows reqwest and rustls.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use reqwest::redirect::Policy;
use reqwest::{Client, Request, Url};
use tokio::sync::Semaphore;

/// Requests at once; others wait their turn.
const AT_ONCE: usize = 16;

/// A client that is made when it is first needed.
#[derive(Debug, Clone)]
pub(super) struct Http {
    clients: Arc<Clients>,
    turns: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct Clients {
    plain: OnceLock<Client>,
    encrypted: OnceLock<Client>,
}

impl Default for Http {
    fn default() -> Self {
        Self {
            clients: Arc::default(),
            turns: Arc::new(Semaphore::new(AT_ONCE)),
        }
    }
}

impl Http {
    /// Fetches a URL; what it answers does not matter, as long as it is a success.
    pub(super) async fn fetch(&self, url: &Url, limit: Duration) -> Result<(), String> {
        let client = self.client(url)?;
        self.send(client, client.get(url.clone()).build(), limit)
            .await
    }

    /// Posts a JSON document.
    pub(super) async fn post(
        &self,
        url: &Url,
        json: Vec<u8>,
        limit: Duration,
    ) -> Result<(), String> {
        let client = self.client(url)?;
        let request = client
            .post(url.clone())
            .header("Content-Type", "application/json")
            .body(json)
            .build();
        self.send(client, request, limit).await
    }

    /// The client for a URL. Without encryption no certificates are needed, so a host that has none can still use it.
    fn client(&self, url: &Url) -> Result<&Client, String> {
        let builder = Client::builder()
            .user_agent(concat!("understudy/", env!("CARGO_PKG_VERSION")))
            // A webhook that is sent elsewhere would lose its document.
            .redirect(Policy::none());
        let (cell, builder) = if url.scheme() == "https" {
            (&self.clients.encrypted, builder.https_only(true))
        } else {
            (&self.clients.plain, builder.tls_certs_only([]))
        };
        if let Some(client) = cell.get() {
            return Ok(client);
        }
        // Another one that was installed before does as well.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let client = builder
            .build()
            .map_err(|error| format!("cannot prepare a connection: {}", chain(&error)))?;
        Ok(cell.get_or_init(|| client))
    }

    async fn send(
        &self,
        client: &Client,
        request: reqwest::Result<Request>,
        limit: Duration,
    ) -> Result<(), String> {
        let request = request.map_err(|error| chain(&error.without_url()))?;
        let exchange = async {
            // Never closed.
            let _turn = self.turns.acquire().await;
            client.execute(request).await
        };
        let Ok(answer) = tokio::time::timeout(limit, exchange).await else {
            return Err(format!("no answer within {} s", limit.as_secs()));
        };
        let status = answer
            .map_err(|error| chain(&error.without_url()))?
            .status();
        if status.is_success() {
            Ok(())
        } else if status.is_redirection() {
            Err(format!(
                "it answers {status}; write the address it leads to instead"
            ))
        } else {
            Err(format!("it answers {status}"))
        }
    }
}

/// A URL for logs: its path is often a secret.
pub(super) fn shown(url: &Url) -> String {
    format!("{}://{}", url.scheme(), url.host_str().unwrap_or_default())
}

/// An error with its causes. Callers take the URL off it, which may hold a secret.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
