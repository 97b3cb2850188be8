//! The front door: it listens, it goes down, it comes back.

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
    api::{Api, goes_down},
    control,
    responses::Stats,
};

mod connection;

/// Connections that the kernel keeps until we take them.
const BACKLOG: u32 = 1024;

/// A stand-in API that is bound to its address. It serves while [`Server::run`] is awaited.
pub struct Server {
    api: Arc<Api>,
    control: Router,
    door: Door,
    open: TcpListener,
    control_open: Option<(TcpListener, SocketAddr)>,
    connections: Arc<Semaphore>,
    down_at_start: Option<(Duration, Duration)>,
}

impl Server {
    /// Binds. Connections wait from now on, and are served by [`Server::run`].
    ///
    /// # Errors
    /// If the settings make no sense, or an address is taken.
    pub async fn bind(settings: &Settings) -> anyhow::Result<Server> {
        settings.check()?;
        let api = Arc::new(Api::new(settings));
        let (door, open) = Door::build(settings.listen)?;
        let control_open = match settings.control_listen {
            Some(address) => {
                let listener = TcpListener::bind(address)
                    .await
                    .with_context(|| format!("cannot listen on {address} (--control-listen)"))?;
                let address = listener
                    .local_addr()
                    .context("cannot ask the control listener for its address")?;
                Some((listener, address))
            }
            None => None,
        };
        Ok(Server {
            control: control::router(api.clone()),
            door,
            open,
            control_open,
            connections: Arc::new(Semaphore::new(settings.connections_max as usize)),
            down_at_start: settings.down_after.zip(settings.down_for),
            api,
        })
    }

    /// Where payments are taken.
    pub fn address(&self) -> SocketAddr {
        self.door.address
    }

    /// Where everything else is served even while the API is down, if `--control-listen` was given.
    pub fn control_address(&self) -> Option<SocketAddr> {
        self.control_open.as_ref().map(|(_, address)| *address)
    }

    /// A handle that still tells the statistics when the server has stopped.
    pub fn counter(&self) -> Counter {
        Counter(self.api.clone())
    }

    /// Serves until this future is dropped.
    ///
    /// # Errors
    /// If it cannot listen again after it was down.
    pub async fn run(self) -> anyhow::Result<()> {
        let Server {
            api,
            control,
            door,
            mut open,
            control_open,
            connections,
            down_at_start,
        } = self;
        let mut down = api.watch_down();
        let control_only = async {
            match control_open {
                Some((listener, _)) => axum::serve(listener, control.clone()).await,
                None => std::future::pending().await,
            }
        };
        let outage = async {
            if let Some((after, duration)) = down_at_start {
                sleep(after).await;
                api.go_down(duration);
            }
            std::future::pending::<()>().await;
        };
        let payments = async {
            // Dropped with this future, it ends the connections.
            let mut serving = JoinSet::new();
            loop {
                tokio::select! {
                    () = accept(&open, &connections, &mut serving, &api, &control) => {}
                    () = goes_down(&mut down) => {}
                }
                // The listener first: a client that is cut off must find the door shut when it comes back.
                drop(open);
                api.ledger().down();
                api.comes_back().await;
                open = door.open()?;
            }
        };
        tokio::select! {
            ended = payments => ended,
            ended = control_only => ended.context("the control listener failed"),
            () = outage => Ok(()),
        }
    }
}

/// Tells the statistics of a [`Server`].
#[derive(Clone)]
pub struct Counter(Arc<Api>);

impl Counter {
    /// As they are now.
    pub fn stats(&self) -> Stats {
        self.0.ledger().stats()
    }
}

/// The address, kept even while nobody listens there.
struct Door {
    address: SocketAddr,
    /// Bound, but not listening. While the API is down, connections are refused and yet nobody else is given
    /// the port: neither another program, nor a client on this machine whose own end of a connection to the port
    /// could otherwise be given that very port, and so be connected to itself.
    _placeholder: Option<TcpSocket>,
}

impl Door {
    fn build(address: SocketAddr) -> anyhow::Result<(Door, TcpListener)> {
        // Only Linux lets a socket listen on an address to which another one is bound.
        let placeholder = if cfg!(target_os = "linux") {
            Some(bind(address)?)
        } else {
            None
        };
        let address = match &placeholder {
            Some(placeholder) => placeholder
                .local_addr()
                .context("cannot ask a socket for its address")?,
            None => address,
        };
        let open = listen(address)?;
        let address = open
            .local_addr()
            .context("cannot ask the listener for its address")?;
        Ok((
            Door {
                address,
                _placeholder: placeholder,
            },
            open,
        ))
    }

    fn open(&self) -> anyhow::Result<TcpListener> {
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
        // Otherwise closed connections that the kernel still remembers keep the address for a minute.
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

/// Takes connections for ever.
async fn accept(
    listener: &TcpListener,
    connections: &Arc<Semaphore>,
    serving: &mut JoinSet<()>,
    api: &Arc<Api>,
    control: &Router,
) {
    loop {
        while serving.try_join_next().is_some() {}
        let permit = connections
            .clone()
            .acquire_owned()
            .await
            .expect("the semaphore is never closed");
        match listener.accept().await {
            Ok((stream, _)) => {
                let (api, control, down) = (api.clone(), control.clone(), api.watch_down());
                serving.spawn(async move {
                    // Answers are small and complete when written; waiting to fill a packet only delays them.
                    let _ = stream.set_nodelay(true);
                    connection::serve(api, control, stream, down).await;
                    drop(permit);
                });
            }
            Err(error) => {
                eprintln!("legacy-api: cannot take a connection, will try again in 50 ms: {error}");
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
}
