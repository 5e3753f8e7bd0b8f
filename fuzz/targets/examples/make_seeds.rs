use cakes::architecture::Architecture;
use cakes::backbone::*;
use cakes::cost::cost;
use cakes::frame::*;
use cakes::kernel::*;
use cakes_cli::input::*;
use cakes_coordinator::exchange::{Exporter, Member, Writer};
use cakes_proto::convert::*;
use cakes_proto::method::Method;
use cakes_proto::v1;
use prost::Message;
use std::fs;
use std::path::Path;
fn put(t: &str, n: &str, b: impl AsRef<[u8]>) {
    fs::write(Path::new(env!("CARGO_MANIFEST_DIR")).join("../seeds").join(t).join(n), b).unwrap();
}
fn main() {
    let id = "0191ab1c-7a2e-4c1f-9a2d-0123456789ab";
    let dig = "ab".repeat(32);
    let mut kinds: Vec<&str> = Vec::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut spec = None;
    for n in ["minimal", "hippocampus", "lung_videos", "adrenal"] {
        let text = Text {
            name: n.into(),
            content: fs::read_to_string(root.join("deploy/examples").join(n.to_owned() + ".json")).unwrap(),
            is_yaml: false,
        };
        let (req, search) = search_file(&text).unwrap();
        put("search_json", n, serde_json::to_vec(&search).unwrap());
        put("search_wire", n, search_to_wire(search.spec()).encode_to_vec());
        put("search_wire", &(n.to_owned() + "_short"), req.search.clone().unwrap().encode_to_vec());
        put(
            "trainer_job",
            &(n.to_owned() + "_supernet"),
            serde_json::to_vec(&search.supernet_job()).unwrap(),
        );
        for (b, a) in search.baselines().into_iter().take(1) {
            let _ = b;
            put(
                "trainer_job",
                &(n.to_owned() + "_retrain"),
                serde_json::to_vec(&search.retrain_job(a, 3)).unwrap(),
            );
        }
        let mut b = vec![0u8];
        b.extend(req.encode_to_vec());
        put("messages", &("submit_".to_owned() + n), b);
        let i = Method::ALL.iter().position(|m| *m == Method::SubmitSearch).unwrap() as u8;
        let mut b = vec![i];
        b.extend(req.encode_to_vec());
        put("api_calls", &("submit_".to_owned() + n), b);
        if n == "minimal" {
            spec = Some((req, search));
        }
    }
    let (req, search) = spec.unwrap();
    let small =
        Backbone::EncoderDecoder(EncoderDecoder { base_width: 4, levels: 2, ..EncoderDecoder::default() });
    let arch = Architecture::even(small.clone(), &[Kernel::K333, Kernel::K133]).unwrap();
    put("architecture", "even.json", serde_json::to_vec(&arch).unwrap());
    put(
        "architecture",
        "all.json",
        serde_json::to_vec(&Architecture::even(small.clone(), &Kernel::ALL[..4]).unwrap()).unwrap(),
    );
    let wire = architecture_to_wire(&arch);
    // every method with a plausible request
    let s = |m: Method, b: Vec<u8>| {
        let i = Method::ALL.iter().position(|x| *x == m).unwrap() as u8;
        let mut v = vec![i];
        v.extend(b);
        put("api_calls", m.name(), v);
    };
    s(
        Method::EstimateCost,
        v1::EstimateCostRequest {
            backbone: wire.backbone.clone(),
            layers: wire.layers.clone(),
            extent: Some(v1::Extent { depth: 16, height: 16, width: 16 }),
            ..Default::default()
        }
        .encode_to_vec(),
    );
    s(
        Method::GetJob,
        v1::GetJobRequest {
            id: id.into(),
            read_mask: serde_json::from_str("\"id,progress.step\"").ok(),
            ..Default::default()
        }
        .encode_to_vec(),
    );
    s(
        Method::ListJobs,
        v1::ListJobsRequest {
            page_size: 3,
            page_token: "01".repeat(25),
            order_by: "create_time".into(),
            states: vec![1],
            ..Default::default()
        }
        .encode_to_vec(),
    );
    s(
        Method::ListSearches,
        v1::ListSearchesRequest {
            page_size: 3,
            order_by: "create_time desc".into(),
            labels: [("a".to_owned(), "b".to_owned())].into(),
            ..Default::default()
        }
        .encode_to_vec(),
    );
    s(Method::WatchJob, v1::WatchJobRequest { id: id.into(), ..Default::default() }.encode_to_vec());
    s(Method::WatchSearch, v1::WatchSearchRequest { id: id.into(), ..Default::default() }.encode_to_vec());
    s(
        Method::StreamJobLogs,
        v1::StreamJobLogsRequest { id: id.into(), resume_token: "01".repeat(33), ..Default::default() }
            .encode_to_vec(),
    );
    s(
        Method::AddWebhook,
        v1::AddWebhookRequest { url: "https://example.org/x".into(), events: vec![1], ..Default::default() }
            .encode_to_vec(),
    );
    s(
        Method::SetProject,
        v1::SetProjectRequest { name: "vision".into(), ..Default::default() }.encode_to_vec(),
    );
    s(
        Method::LabelJob,
        v1::LabelJobRequest { id: id.into(), etag: "0123456789abcdef".into(), ..Default::default() }
            .encode_to_vec(),
    );
    s(
        Method::AddJobNote,
        v1::AddJobNoteRequest { id: id.into(), text: "looks good".into(), ..Default::default() }
            .encode_to_vec(),
    );
    s(
        Method::CancelJob,
        v1::CancelJobRequest { id: id.into(), reason: "enough".into(), ..Default::default() }.encode_to_vec(),
    );
    s(
        Method::DeriveArchitectures,
        v1::DeriveArchitecturesRequest { budgets: vec![0.5], ..Default::default() }.encode_to_vec(),
    );
    s(
        Method::GetArchitecture,
        v1::GetArchitectureRequest { digest: dig.clone(), ..Default::default() }.encode_to_vec(),
    );
    s(
        Method::SubmitRetrain,
        v1::SubmitRetrainRequest {
            request_id: id.into(),
            architecture_digest: dig.clone(),
            seed: 7,
            ..Default::default()
        }
        .encode_to_vec(),
    );
    s(Method::PinCheckpoint, v1::PinCheckpointRequest { ..Default::default() }.encode_to_vec());
    let token = Some(v1::LeaseToken {
        job_id: id.into(),
        epoch: 1,
        nonce: "0123456789abcdef0123456789abcdef".into(),
    });
    let device = v1::Device {
        name: "cpu".into(),
        model: "a processor".into(),
        memory_mib: 1000,
        count: 1,
        ..Default::default()
    };
    s(
        Method::Register,
        v1::RegisterRequest {
            worker_id: "gpu-01".into(),
            request_id: id.into(),
            devices: vec![device.clone()],
            protocol: cakes_proto::WORKER_PROTOCOL,
            ..Default::default()
        }
        .encode_to_vec(),
    );
    s(
        Method::Acquire,
        v1::AcquireRequest {
            worker_id: "gpu-01".into(),
            request_id: id.into(),
            device: Some(device),
            ..Default::default()
        }
        .encode_to_vec(),
    );
    s(Method::Start, v1::StartRequest { token: token.clone(), ..Default::default() }.encode_to_vec());
    let check = v1::CheckpointReference {
        key: format!("{id}/1-01234567/step-000000020"),
        step: 20,
        manifest_sha256: dig.clone(),
    };
    let report = v1::ReportRequest {
        token: token.clone(),
        first_seq: 1,
        entries: vec![v1::ReportEntry {
            entry: Some(v1::report_entry::Entry::Log(v1::LogLine {
                text: "a line".into(),
                time: Some(Default::default()),
                ..Default::default()
            })),
        }],
        progress: Some(v1::JobProgress { step: 3, step_count: 9, loss: 0.5, ..Default::default() }),
        ..Default::default()
    };
    s(Method::Report, report.encode_to_vec());
    s(
        Method::CommitCheckpoint,
        v1::CommitCheckpointRequest {
            token: token.clone(),
            checkpoint: Some(check.clone()),
            ..Default::default()
        }
        .encode_to_vec(),
    );
    let quality = Quality::Segmentation(SegmentationQuality {
        mean_dice: 0.8,
        dice_per_class: vec![0.7, 0.9],
        case_count: 4,
    });
    let complete = v1::CompleteRequest {
        token: token.clone(),
        last_seq: 3,
        checkpoint: Some(check.clone()),
        result: Some(v1::JobResult {
            param_count: 3,
            mac_count: 4,
            latency_ms: Some(1.5),
            peak_memory_mib: 3.25,
            train_duration_s: 0.1,
            device: "cpu".into(),
            ..quality_to_wire(&quality)
        }),
        ..Default::default()
    };
    s(Method::Complete, complete.encode_to_vec());
    s(
        Method::Fail,
        v1::FailRequest { token: token.clone(), failure_class: 1, message: "x".into() }.encode_to_vec(),
    );
    s(
        Method::Reconcile,
        v1::ReconcileRequest {
            worker_id: "gpu-01".into(),
            tokens: vec![token.clone().unwrap()],
            ..Default::default()
        }
        .encode_to_vec(),
    );
    kinds.push("x");
    for (n, b) in [(21u8, report.encode_to_vec()), (23, complete.encode_to_vec()), (28, wire.encode_to_vec())]
    {
        let mut v = vec![n];
        v.extend(&b);
        put("messages", &format!("kind_{n}"), v);
    }
    let mut v = vec![28u8];
    v.extend(serde_json::to_vec(&wire).unwrap());
    put("messages", "architecture.json", v);
    let mut v = vec![0u8];
    v.extend(serde_json::to_vec(&req).unwrap());
    put("messages", "submit.json", v);
    put(
        "grant",
        "whole",
        v1::Grant {
            token: token.clone(),
            trainer_job_json: serde_json::to_string(&search.supernet_job()).unwrap(),
            resume_from: Some(check.clone()),
            artifact_prefix: format!("{id}/1-01234567"),
            offer_ttl_ms: 15000,
            ..Default::default()
        }
        .encode_to_vec(),
    );
    put(
        "grant",
        "up",
        v1::Grant { token: token.clone(), artifact_prefix: "../x".into(), ..Default::default() }
            .encode_to_vec(),
    );
    use cakes_worker::journal::{Concluding, Record};
    let r = Record {
        token: token.clone().unwrap(),
        incarnation: 3,
        last_acked_seq: 4,
        checkpoints: vec![check.clone()],
        conclusion: Some(Concluding::Complete(Box::new(complete))),
    };
    put("journal", "complete.json", serde_json::to_vec(&r).unwrap());
    put(
        "journal",
        "fail.json",
        serde_json::to_vec(&Record {
            conclusion: Some(Concluding::Fail(v1::FailRequest {
                token: token.clone(),
                failure_class: 2,
                message: "disk full".into(),
            })),
            ..r.clone()
        })
        .unwrap(),
    );
    let ev = [
        TrainerEvent::Ready {
            protocol: TRAINER_PROTOCOL,
            device: "cpu".into(),
            libtorch: "2.11".into(),
            param_count: 10,
            steps_total: 9,
            epochs_total: 3,
            resumed_step: 0,
        },
        TrainerEvent::Data(DataContent { sha256: dig.clone(), file_count: 3, bytes: 9 }),
        TrainerEvent::Phase(Phase::Training),
        TrainerEvent::Step {
            step: 1,
            loss: 0.5,
            learning_rate: 0.1,
            samples_per_s: 3.0,
            data_wait_share: 0.1,
        },
        TrainerEvent::Validation {
            step: 1,
            epoch: 1,
            quality: quality.clone(),
            layers: arch.layers().collect(),
        },
        TrainerEvent::Checkpoint {
            step: 1,
            directory: "/work/attempts/a/out/checkpoints/step-000000001".into(),
            manifest_sha256: dig.clone(),
            bytes: 9,
            stall_s: 0.1,
            save_s: 0.2,
        },
        TrainerEvent::Completed(Summary {
            step: 1,
            quality,
            param_count: 10,
            mac_count: 20,
            latency_ms: None,
            peak_memory_mib: 1.0,
            train_duration_s: 2.0,
        }),
    ];
    let mut v = vec![7u8];
    for e in &ev {
        v.extend(encode(e).unwrap());
    }
    put("trainer_frames", "whole", v);
    let mut v = vec![1u8];
    v.extend(encode(&ev[0]).unwrap());
    v.extend(
        encode(&TrainerEvent::Failed { class: FailureClass::Numeric, message: "loss is not finite".into() })
            .unwrap(),
    );
    put("trainer_frames", "failed", v);
    let mut v = vec![3u8];
    v.extend(encode(&ev[0]).unwrap());
    v.extend(
        encode(&TrainerEvent::Checkpoint {
            step: 1,
            directory: "/work/attempts/a/out/checkpoints/../../..".into(),
            manifest_sha256: dig.clone(),
            bytes: 9,
            stall_s: 0.1,
            save_s: 0.2,
        })
        .unwrap(),
    );
    put("trainer_frames", "up", v);
    let mut m = b"id,jobs.progress.stepCount, jobs.labels\n".to_vec();
    m.extend(
        v1::Search {
            id: "s".into(),
            revision: 7,
            jobs: vec![v1::Job {
                id: "j".into(),
                progress: Some(v1::JobProgress { step: 3, step_count: 9, ..Default::default() }),
                labels: [("owner".to_owned(), "ada".to_owned())].into(),
                ..Default::default()
            }],
            ..Default::default()
        }
        .encode_to_vec(),
    );
    put("field_mask", "some", m);
    put("field_mask", "all", b"*\n\x0a\x01s");
    // exchange
    let line0=serde_json::json!({"id":id,"name":search.spec().name,"spec":search,"state":"running","state_reason":"","revision":1,"create_time":"2026-01-01T00:00:00Z","end_time":null}).to_string();
    let line1 = serde_json::to_string(&v1::SubmitSearchRequest {
        search: Some(search_to_wire(search.spec())),
        ..Default::default()
    })
    .unwrap();
    let a = Architecture::even(search.spec().backbone.clone(), &[Kernel::K333]).unwrap();
    let c = cost(&a.network(), search.spec().patch).unwrap();
    let line2=serde_json::json!({"origin":"even","digest":a.digest(),"retrain":true,"param_count":c.param_count,"mac_count":c.mac_count,"mac_fraction":1.0,"cost":c,"create_time":"2026-01-01T00:00:00Z","architecture":a}).to_string();
    let line5=serde_json::json!({"time":"2026-01-01T00:00:00Z","kind":"submitted","job_id":null,"epoch":null,"worker_id":null,"body":{}}).to_string();
    put("exchange_lines", "running", format!("0{line0}\n1{line1}\n5{line5}\n"));
    put("exchange_lines", "architecture", format!("0{line0}\n1{line1}\n2{line2}\n"));
    let mut w = Writer::default();
    for m in Member::ALL {
        w.begin(m).unwrap();
        match m {
            Member::Search => w.line(&line0).unwrap(),
            Member::Request => w.line(&line1).unwrap(),
            _ => {}
        }
    }
    let e: Exporter = serde_json::from_str(
        r#"{"cakes_version":"0.1.0","source":"x","export_time":"2026-01-01T00:00:00Z"}"#,
    )
    .unwrap();
    let (f, _) = w.finish(id.parse::<cakes_proto::ids::SearchId>().unwrap().0, true, e).unwrap();
    put("exchange_file", "small.zip", f);
    let _ = kinds;
}
