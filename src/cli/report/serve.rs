//! The page of a run while it trains, to be looked at with a browser.
//!
//! One thread answers, one request at a time, from the files of the run: training does not know that it is looked at.
//! Nothing can be changed from there. Samples and guesses cost what `report` costs, and are made when they are asked
//! for.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::thread;

use tiny_http::{Header, Method, Request, Response, Server};

use super::super::output::tell;
use super::super::train::ComputeFlags;
use super::{Report, Wanted, look, names, page};
use crate::train::run_dir::Which;
use crate::{Error, ErrorKind, Result};

/// Samples of a step that are shown.
const SAMPLES: usize = 16;

/// Shows the run in `run`, which may be still to come, at this address, from now to the end of the process.
///
/// # Errors
/// [`ErrorKind::Usage`] where it is no address; [`ErrorKind::CannotCreate`] where nothing can listen there.
pub fn serve(address: &str, run: &Path) -> Result<()> {
    let address = resolved(address)?;
    let server = Server::http(address).map_err(|error| {
        Error::new(ErrorKind::CannotCreate, format!("--dashboard {address}: nothing can listen there"))
            .caused_by(error)
    })?;
    // Port 0 is any that is free.
    let address = server.server_addr().to_ip().unwrap_or(address);
    let beyond = if address.ip().is_loopback() { "" } else { ", to everybody who reaches this machine" };
    tell(format_args!("dashboard at http://{address}/{beyond}"));
    let run = run.to_owned();
    thread::Builder::new()
        .name("dashboard".to_owned())
        .spawn(move || {
            for request in server.incoming_requests() {
                answer(request, &run, address.ip());
            }
        })
        .map(drop)
        .map_err(|error| Error::internal("the thread of the dashboard cannot be started").caused_by(error))
}

/// `PORT` of this machine alone, or `HOST:PORT`.
fn resolved(address: &str) -> Result<SocketAddr> {
    if let Ok(port) = address.parse() {
        return Ok((Ipv4Addr::LOCALHOST, port).into());
    }
    let wrong = || Error::usage(format!("--dashboard {address}: a port is wanted, or HOST:PORT"));
    address.to_socket_addrs().map_err(|error| wrong().caused_by(error))?.next().ok_or_else(wrong)
}

/// What is sent back.
struct Answer {
    status: u16,
    kind: &'static str,
    body: String,
}

fn answer(request: Request, run: &Path, listening: IpAddr) {
    let host = request.headers().iter().find(|header| header.field.equiv("Host"));
    let host = host.map(|header| header.value.as_str());
    let Answer { status, kind, body } = respond(request.method(), request.url(), host, run, listening);
    let headers = [
        ("Content-Type", kind),
        ("Cache-Control", "no-store"),
        ("X-Content-Type-Options", "nosniff"),
        ("X-Frame-Options", "DENY"),
        ("Allow", "GET, HEAD"),
    ];
    let header = |(name, value): (&str, &str)| Header::from_bytes(name, value).expect("plain ASCII");
    let mut response = Response::from_string(body).with_status_code(status);
    headers.into_iter().for_each(|pair| response.add_header(header(pair)));
    // Whoever asked may have gone.
    drop(request.respond(response));
}

fn respond(method: &Method, url: &str, host: Option<&str>, run: &Path, listening: IpAddr) -> Answer {
    let plain =
        |status, body: &str| Answer { status, kind: "text/plain; charset=utf-8", body: body.to_owned() };
    if !matches!(method, Method::Get | Method::Head) {
        return plain(405, "this can be looked at, not changed\n");
    }
    if !known_host(host, listening) {
        return plain(403, "asked for under a name that is not this machine's\n");
    }
    let limit = match url.split('?').next() {
        Some("/" | "/data.json") => 0,
        Some("/samples.json") => SAMPLES,
        Some("/favicon.ico") => return plain(204, ""),
        _ => return plain(404, "there are /, /data.json and /samples.json\n"),
    };
    match live(run, limit) {
        Ok(report) if url == "/" => {
            Answer { status: 200, kind: "text/html; charset=utf-8", body: page::page(&report) }
        }
        Ok(report) => Answer { status: 200, kind: "application/json", body: page::json(&report) },
        Err(error) => plain(503, &format!("{error}\n")),
    }
}

/// Whether a request that came to a loopback address was meant for this machine. A web page elsewhere could give its
/// own name that address, and read what is answered; an address or `localhost` it cannot be called by.
fn known_host(host: Option<&str>, listening: IpAddr) -> bool {
    let Some(host) = host else { return true };
    let name = if host.parse::<IpAddr>().is_ok() {
        host
    } else {
        host.rsplit_once(':').map_or(host, |(name, _)| name)
    };
    let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    !listening.is_loopback() || name.eq_ignore_ascii_case("localhost") || address.is_ok()
}

/// What there is to see of the run now.
fn live(run: &Path, limit: usize) -> Result<Report> {
    let one_thread = ComputeFlags { threads: Some(1), ..ComputeFlags::default() };
    let wanted = Wanted { step: Vec::new(), limit, checkpoint: Which::Latest, compute: one_thread };
    let paths: [PathBuf; 1] = [run.to_owned()];
    let runs = names(&paths).into_iter().map(|name| look(name, run, &wanted)).collect::<Result<_>>()?;
    Ok(Report { live: true, ..Report::of(runs) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_alone_is_of_this_machine() {
        let check = |address: &str, expected: Option<&str>| {
            assert_eq!(resolved(address).ok(), expected.map(|known| known.parse().unwrap()), "{address}");
        };
        check("8080", Some("127.0.0.1:8080"));
        check("0.0.0.0:80", Some("0.0.0.0:80"));
        check("[::1]:80", Some("[::1]:80"));
        check("", None);
        check("70000", None);
        check("127.0.0.1", None);
    }

    #[test]
    fn names_that_others_chose_are_refused() {
        let check = |host: Option<&str>, listening: &str, expected| {
            assert_eq!(known_host(host, listening.parse().unwrap()), expected, "{host:?}");
        };
        check(None, "127.0.0.1", true);
        check(Some("127.0.0.1:8080"), "127.0.0.1", true);
        check(Some("localhost:8080"), "127.0.0.1", true);
        check(Some("LOCALHOST"), "127.0.0.1", true);
        check(Some("[::1]:8080"), "::1", true);
        check(Some("evil.example:8080"), "127.0.0.1", false);
        check(Some("localhost.evil.example"), "127.0.0.1", false);
        check(Some("gpu-box:8080"), "0.0.0.0", true);
    }
}
