//! Answers to no request: what an API writes behind its response is never the response to the next request.

use super::server::read_request;
use super::*;
use tokio::io::AsyncWriteExt as _;

/// Response to the request, and one to no request.
const ACCEPTED: &str = "HTTP/1.1 201 Created\r\ncontent-length: 2\r\n\r\n{}";
const REFUSED: &str = "HTTP/1.1 422 No\r\ncontent-length: 2\r\n\r\nno";

/// Starts a server that writes `response` to each request, and `stray` behind it: at once, or as soon as the next
/// request has arrived. Returns its URL.
async fn serve(response: &'static str, stray: &'static str, at_once: bool) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/", listener.local_addr().expect("an address"));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut is_first = true;
                while read_request(&mut stream).await.is_some() {
                    let text = match (at_once, is_first) {
                        (true, _) => format!("{response}{stray}"),
                        (false, true) => response.to_owned(),
                        (false, false) => format!("{stray}{response}"),
                    };
                    is_first = false;
                    if stream.write_all(text.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    url
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn second_response_answers_no_other_call() {
    for (response, stray, class) in [
        (ACCEPTED, REFUSED, ResponseClass::Accepted),
        (REFUSED, ACCEPTED, ResponseClass::Rejected),
    ] {
        let url = serve(response, stray, true).await;
        let api = Api::new(&settings(&url)).expect("an API");
        for number in 0..200 {
            let (found, found_class) = call_class(&api).await;
            assert_eq!(found_class, class, "call {number}: {found:?}");
        }
    }
}

/// An API that writes the second response only while the next request is on its way cannot be told from one that
/// responds to it. Without idle connections no request follows another one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_second_response_needs_a_kept_connection() {
    let url = serve(ACCEPTED, REFUSED, false).await;
    let api = Api::new(&ApiSettings {
        pool_idle_max: 0,
        ..settings(&url)
    })
    .expect("an API");
    for number in 0..50 {
        let (found, class) = call_class(&api).await;
        assert_eq!(class, ResponseClass::Accepted, "call {number}: {found:?}");
    }
}
