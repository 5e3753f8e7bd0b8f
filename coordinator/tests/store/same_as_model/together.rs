//! Calls of several jobs that share transactions: each must do what it does alone.

use cakes_coordinator::store::Kept;
use cakes_coordinator::store::attempts::{
    Answers, Deed as TurnDeed, Receipt, Saved, Turn, Turned, move_together, report_together, turn,
};

use super::*;

const SCENES: usize = 4;

/// One deed per scene, or one that meets them all.
#[derive(Clone, Debug)]
enum Round {
    Each(Vec<Deed>),
    All(Deed),
}

fn any_round() -> impl Strategy<Value = Round> {
    let own = any_deed().prop_map(|deed| match deed {
        Deed::RunOut | Deed::Sweep | Deed::Extend | Deed::Condemn => Deed::Start { grant: 0 },
        deed => deed,
    });
    let for_all = proptest::sample::select(vec![Deed::RunOut, Deed::Sweep, Deed::Extend, Deed::Condemn]);
    prop_oneof![
        6 => proptest::collection::vec(own, SCENES).prop_map(Round::Each),
        1 => for_all.prop_map(Round::All),
    ]
}

/// A call that shares a transaction.
enum Shared {
    Turn(Turn),
    Report(Report),
}

impl Scene {
    /// The call of a step, if it is one that shares transactions.
    fn shared(&self, step: &Step) -> Option<Shared> {
        let Step::Call(call, grant) = step else { return None };
        let grant = grant.as_deref()?;
        let deed = match *call {
            Call::Report { first_seq, count, first_step, step, .. } => {
                return Some(Shared::Report(batch(grant, first_seq, count, first_step, step)));
            }
            Call::Start { .. } => TurnDeed::Start { lease_ttl: self.policy.lease_ttl },
            Call::Commit { step, .. } => {
                TurnDeed::Commit(Saved { checkpoint: checkpoint_of(grant, i64::from(step)), bytes: 1 })
            }
            Call::Complete { last_seq, checkpoint, saves, .. } => {
                TurnDeed::Complete(Box::new(self.completion(grant, last_seq, checkpoint, saves)))
            }
            _ => return None,
        };
        Some(Shared::Turn(Turn { token: grant.token, deed }))
    }

    /// Lets this scene's job be granted, or nobody's.
    async fn show(&self, is_shown: bool) {
        let statement = "update job set avoid_worker_id = null, avoid_until = null,
            run_after = case when $2 then null::timestamptz else 'infinity' end where id = $1";
        sqlx::query(statement).bind(self.job.0).bind(is_shown).execute(&self.pool).await.unwrap();
    }
}

/// Makes these calls together; what nobody made is made alone.
async fn perform(
    pool: &PgPool,
    policy: &Policy,
    calls: Vec<(usize, Shared)>,
) -> Vec<(usize, Result<Answer, Error>)> {
    let (mut turns, mut reports) = ((Vec::new(), Vec::new()), (Vec::new(), Vec::new()));
    for (scene, call) in calls {
        match call {
            Shared::Turn(turn) => (turns.0.push(scene), turns.1.push(turn)),
            Shared::Report(report) => (reports.0.push(scene), reports.1.push(report)),
        };
    }
    let kept = Kept::new(pool.clone());
    let together: Vec<&Turn> = turns.1.iter().collect();
    let (turned, _): (Answers<Turned>, _) = move_together(&kept, policy, &together, &[]).await.unwrap();
    let received: Answers<Receipt> = report_together(&kept, policy, &reports.1).await.unwrap();
    let mut answers = Vec::new();
    for ((scene, wanted), answer) in turns.0.into_iter().zip(&turns.1).zip(turned) {
        let answer = match answer {
            Some(answer) => answer,
            None => turn(pool, wanted).await,
        };
        answers.push((scene, answer.map(|_| Answer::Done)));
    }
    for ((scene, wanted), answer) in reports.0.into_iter().zip(&reports.1).zip(received) {
        let answer = match answer {
            Some(answer) => answer,
            None => report(pool, policy, wanted).await,
        };
        let receipt = |receipt: Receipt| Answer::Receipt {
            ack_seq: u8::try_from(receipt.ack_seq).unwrap(),
            desired: receipt.desired.into(),
        };
        answers.push((scene, answer.map(receipt)));
    }
    answers
}

async fn advance(scenes: &mut [Scene], round: &Round) -> Result<(), TestCaseError> {
    let steps: Vec<Option<Step>> = match round {
        Round::Each(deeds) => scenes.iter_mut().zip(deeds).map(|(scene, deed)| scene.resolve(deed)).collect(),
        Round::All(deed) => scenes.iter_mut().map(|scene| scene.resolve(deed)).collect(),
    };
    let mut answers: Vec<Option<Answer>> = vec![None; scenes.len()];
    let fail = |error: Error| TestCaseError::fail(format!("{error:?} in {steps:#?}"));
    let mut shared = Vec::new();
    for (index, scene) in scenes.iter_mut().enumerate() {
        let Some(step) = &steps[index] else { continue };
        match scene.shared(step) {
            Some(call) => shared.push((index, call)),
            None if matches!(round, Round::All(_)) && index > 0 => {}
            None => {
                scene.show(true).await;
                let (grant, answer) = scene.perform(step).await.map_err(fail)?;
                answers[index] = grant.map(|grant| scene.number(grant)).or(answer);
                scene.show(false).await;
            }
        }
    }
    let (pool, policy) = (scenes[0].pool.clone(), scenes[0].policy);
    for (index, answer) in perform(&pool, &policy, shared).await {
        answers[index] = Some(answer.or_else(refusal).map_err(fail)?);
    }
    for (index, scene) in scenes.iter_mut().enumerate() {
        let Some(step) = &steps[index] else { continue };
        let seen = answers[index].filter(|_| !matches!(round, Round::All(_)));
        let (rows, answer) = scene.apply(&scene.model, step, seen);
        let found = scene.read().await;
        scene.show(false).await;
        let same_answer = matches!(round, Round::All(_)) || answer == answers[index];
        if !same_answer || rows != found {
            let problem = format!(
                "job {index}: {step:#?} was answered {:?}, not {answer:?}\nand led from {:#?}\nto {found:#?}",
                answers[index], scene.model
            );
            return Err(TestCaseError::fail(problem));
        }
        scene.model = rows;
    }
    Ok(())
}

#[sqlx::test(migrations = "../migrations")]
async fn calls_that_share_a_transaction_do_what_they_do_alone(pool: PgPool) {
    let config = Config {
        cases: 12,
        rng_seed: RngSeed::Fixed(15),
        failure_persistence: None,
        max_shrink_iters: 50,
        ..Config::default()
    };
    let (runtime, rows) = (tokio::runtime::Handle::current(), pool.clone());
    let walk = move || {
        let list = proptest::collection::vec(any_round(), 24);
        TestRunner::new(config).run(&list, |list| {
            runtime.block_on(async {
                let mut scenes = Vec::new();
                for _ in 0..SCENES {
                    let scene = Scene::new(pool.clone()).await;
                    scene.show(false).await;
                    scenes.push(scene);
                }
                for round in &list {
                    advance(&mut scenes, round).await?;
                }
                for scene in &scenes {
                    scene.leave().await;
                }
                Ok(())
            })
        })
    };
    if let Err(failure) = tokio::task::spawn_blocking(walk).await.unwrap() {
        panic!("{failure}");
    }
    let results = count(&rows, "select count(*) from result").await;
    assert!(results > 0, "some jobs reach a result");
}
