//! Server: listens, serves connections, goes down and comes back.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context;
use axum::Router;
use tokio::{
    net::{TcpListener, TcpSocket},
    sync::Semaphore,
    task::JoinSet,
    time::sleep,
};

use crate::{
    Settings,
    api::{Api, outage_started},
    control,
    responses::Stats,
};

mod connection;

/// Maximum number of connections that the kernel queues until they are accepted.
const BACKLOG: u32 = 1024;

/// Stand-in API, bound to its address. It serves while [`Server::run`] is awaited.
pub struct Server {
    api: Arc<Api>,
    control: Router,
    port: PortGuard,
    listener: TcpListener,
    control_listener: Option<(TcpListener, SocketAddr)>,
    connections: Arc<Semaphore>,
    outage_settings: Option<(Duration, Duration)>,
}

impl Server {
    /// Binds the addresses. Connections are queued from now on, and served by [`Server::run`].
    ///
    /// # Errors
    /// The settings are invalid, or an address is in use.
    pub async fn bind(settings: &Settings) -> anyhow::Result<Server> {
        settings.check()?;
        let api = Arc::new(Api::new(settings));
        let (port, listener) = PortGuard::build(settings.listen)?;
        let control_listener = match settings.control_listen {
            Some(address) => {
                let listener = TcpListener::bind(address)
                    .await
                    .with_context(|| format!("cannot listen on {address} (--control-listen)"))?;
                let address = listener
                    .local_addr()
                    .context("reading the address of the control listener")?;
                Some((listener, address))
            }
            None => None,
        };
        Ok(Server {
            control: control::router(api.clone()),
            port,
            listener,
            control_listener,
            connections: Arc::new(Semaphore::new(settings.connections_max as usize)),
            outage_settings: settings.down_after.zip(settings.down_for),
            api,
        })
    }

    /// Returns the address for payments.
    pub fn address(&self) -> SocketAddr {
        self.port.address
    }

    /// Returns the address of `--control-listen`, which stays up while the API is down.
    pub fn control_address(&self) -> Option<SocketAddr> {
        self.control_listener.as_ref().map(|(_, address)| *address)
    }

    /// Returns a handle to the statistics, which remains valid after the server has stopped.
    pub fn counter(&self) -> Counter {
        Counter(self.api.clone())
    }

    /// Serves until this future is dropped.
    ///
    /// # Errors
    /// Listening again after an outage fails.
    pub async fn run(self) -> anyhow::Result<()> {
        let Server {
            api,
            control,
            port,
            mut listener,
            control_listener,
            connections,
            outage_settings,
        } = self;
        let mut outage = api.watch_outage();
        let control_only = async {
            match control_listener {
                Some((listener, _)) => axum::serve(listener, control.clone()).await,
                None => std::future::pending().await,
            }
        };
        let outage_at_start = async {
            if let Some((after, duration)) = outage_settings {
                sleep(after).await;
                api.go_down(duration);
            }
            std::future::pending::<()>().await;
        };
        let payments = async {
            // Dropping the set with this future closes the connections.
            let mut serving = JoinSet::new();
            loop {
                tokio::select! {
                    () = accept(&listener, &connections, &mut serving, &api, &control) => {}
                    () = outage_started(&mut outage) => {}
                }
                // The listener goes first: a client that was cut off must be refused when it reconnects.
                drop(listener);
                api.ledger().down();
                api.outage_over().await;
                listener = port.listen()?;
            }
        };
        tokio::select! {
            ended = payments => ended,
            ended = control_only => ended.context("the control listener failed"),
            () = outage_at_start => Ok(()),
        }
    }
}

/// Handle to the statistics of a [`Server`].
#[derive(Clone)]
pub struct Counter(Arc<Api>);

impl Counter {
    /// Returns the current statistics.
    pub fn stats(&self) -> Stats {
        self.0.ledger().stats()
    }
}

/// Address of the server, reserved even while nothing listens there.
struct PortGuard {
    address: SocketAddr,
    /// Bound, but not listening: connections are refused while the API is down, and the port stays reserved.
    // Without it the kernel could give the port to another program, or to a local client as the source port
    // of its own connection to it, which would then connect to itself (TCP simultaneous open).
    _placeholder: Option<TcpSocket>,
}

impl PortGuard {
    fn build(address: SocketAddr) -> anyhow::Result<(PortGuard, TcpListener)> {
        // Only Linux lets a socket listen on an address that another one is bound to.
        let placeholder = if cfg!(target_os = "linux") {
            Some(bind(address)?)
        } else {
            None
        };
        let address = match &placeholder {
            Some(placeholder) => placeholder
                .local_addr()
                .context("reading the address of the bound socket")?,
            None => address,
        };
        let open = listen(address)?;
        let address = open.local_addr().context("reading the address of the listener")?;
        Ok((
            PortGuard {
                address,
                _placeholder: placeholder,
            },
            open,
        ))
    }

    fn listen(&self) -> anyhow::Result<TcpListener> {
        listen(self.address)
    }
}

fn bind(address: SocketAddr) -> anyhow::Result<TcpSocket> {
    let bound = || {
        let socket = if address.is_ipv4() {
            TcpSocket::new_v4()?
        } else {
            TcpSocket::new_v6()?
        };
        // Otherwise connections in TIME_WAIT keep the address in use for a minute.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        std::io::Result::Ok(socket)
    };
    bound().with_context(|| format!("cannot bind {address} (--listen); is another program there?"))
}

fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    bind(address)?
        .listen(BACKLOG)
        .with_context(|| format!("cannot listen on {address} (--listen); is another program there?"))
}

/// Accepts connections until the future is dropped.
async fn accept(
    listener: &TcpListener,
    connections: &Arc<Semaphore>,
    serving: &mut JoinSet<()>,
    api: &Arc<Api>,
    control: &Router,
) {
    loop {
        // Finished connections are removed here, or the set would grow for the life of the server.
        while serving.try_join_next().is_some() {}
        // Taken before `accept`, so that surplus connections wait in the backlog and not in this process.
        let permit = connections
            .clone()
            .acquire_owned()
            .await
            .expect("the semaphore is never closed");
        match listener.accept().await {
            Ok((stream, _)) => {
                let (api, control, outage) = (api.clone(), control.clone(), api.watch_outage());
                serving.spawn(async move {
                    // Responses are small and written at once, so Nagle's algorithm would only delay them.
                    let _ = stream.set_nodelay(true);
                    connection::serve(api, control, stream, outage).await;
                    drop(permit);
                });
            }
            Err(error) => {
                // Usually out of file descriptors: connections that end free some.
                eprintln!("legacy-api: accepting a connection failed, trying again in 50 ms: {error}");
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
}
