//! Pages about runs: what they hold, and that they hold it whatever the run looks like.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::toy::{Place, number};

const TINY: &str = "--hidden 16 --layers 1 --attn-heads 2 --seq-len 24 --batch-size 16";

fn text(place: &Place, name: &str) -> String {
    String::from_utf8(place.read(name)).unwrap()
}

/// The data of a page, which stand in it as JSON.
fn data(page: &str) -> Value {
    let (_, rest) = page.split_once("id=\"data\">").expect("the page has data");
    let (data, _) = rest.split_once("</script>").expect("that end");
    serde_json::from_str(data).expect("and are JSON")
}

#[test]
fn a_page_holds_curves_samples_and_guesses() {
    let place = Place::with_lines(300);
    let train = "train --corpus train.tsv --vocab vocab.json --test held-out.tsv --output run";
    place.good(&format!("{train} {TINY} --steps 30 --log-freq 5 --eval-every 10 --save-every 10"));
    place.good("report run --limit 4");
    let page = data(&text(&place, "report.html"));
    let run = &page["runs"][0];
    assert_eq!((&run["name"], &run["total"], &run["checkpoint"]), (&"run".into(), &30.into(), &30.into()));
    let training = &run["curves"]["training"];
    assert_eq!(training["steps"], serde_json::json!([5, 10, 15, 19, 20, 25, 30]));
    for figure in ["mlm_loss", "mlm_accuracy", "nsp_loss", "lr", "grad_norm", "tokens_per_second", "seconds"]
    {
        let values = training["figures"][figure].as_array().unwrap();
        assert!(values.len() == 7 && values.iter().all(Value::is_number), "{figure}: {values:?}");
    }
    assert_eq!(run["curves"]["evaluations"]["steps"], serde_json::json!([10, 19, 20, 30]));
    assert!(run["curves"]["stages"]["sample"].is_array());

    let steps: Vec<f64> = run["steps"].as_array().unwrap().iter().map(|step| number(step, "step")).collect();
    assert_eq!((steps.len(), steps[0], *steps.last().unwrap()), (8, 1.0, 30.0), "pairs: any step is found");
    // The samples are those that `inspect` shows.
    let inspected = place.good("inspect --run run --step 30 --limit 4 --json").json_lines();
    let shown = run["steps"][7]["shown"].as_array().unwrap();
    assert_eq!((shown.len(), number(&run["steps"][7], "of")), (4, 16.0));
    for (shown, inspected) in shown.iter().zip(&inspected) {
        assert_eq!((&shown["tokens"], &shown["pair"]), (&inspected["tokens"], &inspected["pair"]));
        let predicted = shown["predicted"].as_array().unwrap();
        for (predicted, inspected) in predicted.iter().zip(inspected["predicted"].as_array().unwrap()) {
            assert_eq!(predicted["at"], inspected["position"]);
            assert_eq!(predicted["truth"], inspected["token"]);
            assert_eq!(predicted["corruption"], inspected["corruption"]);
            let guesses = predicted["guesses"].as_array().unwrap();
            let shares: Vec<f64> = guesses.iter().map(|guess| guess[1].as_f64().unwrap()).collect();
            assert!(shares.len() == 5 && shares.is_sorted_by(|a, b| a >= b), "{shares:?}");
            assert!(number(predicted, "probability") <= shares[0] + 1e-6);
        }
        assert!((0.0..=1.0).contains(&number(shown, "is_next")));
    }
    let statistics = &run["statistics"];
    assert_eq!((number(statistics, "samples"), &statistics["whole"]), (300.0, &true.into()));
    assert!(number(statistics, "padding_fixed") >= number(statistics, "padding_longest"));

    // Steps that are asked for.
    place.good("report run --step 7 --step 23 --limit 1 --checkpoint 20 --output asked.html");
    let asked = data(&text(&place, "asked.html"));
    let steps = &asked["runs"][0]["steps"];
    assert_eq!((&steps[0]["step"], &steps[1]["step"]), (&7.into(), &23.into()));
    assert_eq!(asked["runs"][0]["checkpoint"], 20);
}

#[test]
fn several_runs_and_damaged_ones_are_shown() {
    let place = Place::with_lines(200);
    for run in ["a", "b<!--"] {
        place.good(&format!("train --corpus train.tsv --vocab vocab.json {TINY} --steps 10 --output {run}"));
    }
    // A record without numbers, one that a kill cut short, and one of a kind that is not known.
    let metrics = place.path("a/metrics.jsonl");
    let mut records = fs::read_to_string(&metrics).unwrap();
    records +=
        "{\"kind\":\"step\",\"step\":11,\"mlm_loss\":null,\"grad_norm\":null,\"masked\":3,\"seconds\":1.0}\n";
    records += "{\"kind\":\"unheard of\",\"step\":12}\n{\"kind\":\"step\",\"st";
    fs::write(&metrics, records).unwrap();
    place.good("report a b<!-- --limit 2 --output both.html");
    let page = text(&place, "both.html");
    assert!(!page.contains("b<!--"), "a name ends nothing");
    let both = data(&page);
    assert_eq!((&both["runs"][0]["name"], &both["runs"][1]["name"]), (&"a".into(), &"b<!--".into()));
    let losses = both["runs"][0]["curves"]["training"]["figures"]["mlm_loss"].as_array().unwrap();
    assert!(losses[0].is_number() && losses[1].is_null(), "{losses:?}");

    // Without its corpus a run still has its curves, and the reason is told.
    fs::rename(place.path("train.tsv"), place.path("moved.tsv")).unwrap();
    let told = place.good("report a --output without.html").stderr;
    assert!(told.contains("no samples") && told.contains("train.tsv"), "{told}");
    let without = data(&text(&place, "without.html"));
    assert!(without["runs"][0]["without"].as_str().unwrap().contains("train.tsv"));
    assert_eq!(place.run("report a --step 3 --output without.html").code, 66, "asked for, it is an error");
    assert_eq!(place.run("report a --step 11").code, 2, "the run has ten");
    assert_eq!(place.run("report nothing").code, 66);
    assert_eq!(place.run("report a --limit 0 --output missing/report.html").code, 73);
}

/// What a server answers to one request: its status and its body.
fn asked(address: &str, request: &str, host: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "{request} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    // A long body comes in pieces, each behind its length.
    match head.to_ascii_lowercase().contains("chunked") {
        true => (status, unchunked(body)),
        false => (status, body.to_owned()),
    }
}

fn unchunked(mut body: &str) -> String {
    let mut whole = String::new();
    while let Some((length, rest)) = body.split_once("\r\n") {
        let length = usize::from_str_radix(length, 16).unwrap();
        whole += &rest[..length];
        body = rest[length..].trim_start_matches("\r\n");
    }
    whole
}

#[test]
fn a_dashboard_shows_the_page_and_lets_nobody_write() {
    let place = Place::with_lines(200);
    let train = "train --corpus train.tsv --vocab vocab.json --output run --steps 1000000 --log-freq 300";
    let flags = format!("{train} --save-every 100 --dashboard 0 {TINY}");
    let mut child = place.command(&flags).spawn().unwrap();
    let mut told = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.starts_with("dashboard at http://127.0.0.1:") {
        line.clear();
        assert_ne!(told.read_line(&mut line).unwrap(), 0, "it ended before it told where");
    }
    let address = line.trim().trim_start_matches("dashboard at http://").trim_end_matches('/').to_owned();
    // So that the run does not stop at a full pipe.
    let reading = std::thread::spawn(move || drop(told.read_to_string(&mut String::new())));

    let get = |path: &str| asked(&address, &format!("GET {path}"), &address);
    let now = || data(&get("/").1);
    while !place.path("run/latest").exists()
        || now()["runs"][0]["curves"]["training"]["steps"] == Value::Array(vec![])
    {
        assert!(child.try_wait().unwrap().is_none(), "the run goes on");
    }
    // The page is the one that is written, but for what makes it ask again. The run goes on meanwhile.
    loop {
        let before = get("/").1;
        place.good("report run --limit 0");
        if get("/").1 == before {
            assert_eq!(before.replace("\"live\":true", "\"live\":false"), text(&place, "report.html"));
            break;
        }
    }
    let samples: Value = serde_json::from_str(&get("/samples.json").1).unwrap();
    assert!(
        !samples["runs"][0]["steps"][0]["shown"][0]["tokens"].as_array().unwrap().is_empty(),
        "{samples}"
    );
    assert_eq!(get("/data.json?again").0, 200);
    for (request, host, status) in [
        ("HEAD /", &*address, 200),
        ("GET /favicon.ico", &address, 204),
        ("GET /../vocab.json", &address, 404),
        ("GET /vocab.json", &address, 404),
        ("POST /", &address, 405),
        ("PUT /data.json", &address, 405),
        ("DELETE /data.json", &address, 405),
        ("GET /", "elsewhere.example", 403),
    ] {
        assert_eq!(asked(&address, request, host).0, status, "{request} for {host}");
    }
    // Where somebody listens, nobody else can; nothing is begun then.
    let second =
        place.run(&format!("{train} --dashboard {address} {TINY}").replace("output run", "output second"));
    assert_eq!((second.code, place.path("second").exists()), (73, false), "{}", second.stderr);
    let pid = Pid::from_raw(child.id().cast_signed()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(75), "it stops like a run without a dashboard");
    reading.join().unwrap();
}
