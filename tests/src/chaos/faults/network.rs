//! Faults between workers and coordinators, and several faults at once.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::Result;
use nix::sys::signal::Signal;
use tonic::Code;

use super::{Chaos, PATIENCE, Proof, coordinators, end_of, seen};
use crate::chaos::fleet::Fleet;
use crate::chaos::history::Grant;
use crate::chaos::plant::{FAKE_GROUPS, Plant};
use crate::chaos::proxy::{Gate, Proxy};
use crate::chaos::schedule::Random;
use crate::fake::{Kind, Refusal};

fn total(proxies: &[Proxy], count: impl Fn(&Proxy) -> u64) -> u64 {
    proxies.iter().map(count).sum()
}

/// Those of grants that fakes of a group have.
fn held_by(held: Vec<(usize, Grant)>, group: usize) -> Vec<Grant> {
    let held = held.into_iter();
    held.filter(|(number, _)| Fleet::group(*number) == group).map(|(_, grant)| grant).collect()
}

/// F17. The fakes do not stop by themselves: they are zombies that go on.
pub(super) async fn cut_off(chaos: &Chaos, random: &mut Random) -> Result<Proof> {
    let group = random.below(FAKE_GROUPS as u64) as usize;
    let mut proxies: Vec<&Proxy> = chaos.plant.fake_proxies[group].iter().collect();
    // Sometimes a real worker is cut off with them.
    let worker = random.below(2 * chaos.plant.worker_proxies.len().max(1) as u64) as usize;
    proxies.extend(chaos.plant.worker_proxies.get(worker).into_iter().flatten());
    let grants = held_by(chaos.fleet.at_work(), group);
    if grants.is_empty() {
        // Nothing could expire, and others would wait for the healing.
        return Ok(None);
    }
    for proxy in &proxies {
        proxy.gate(Gate::Hold, Gate::Hold);
    }
    let expired = seen(PATIENCE, async || {
        let mut expired = 0;
        for grant in &grants {
            let end = end_of(&chaos.plant.pool, *grant).await?;
            expired += usize::from(end.is_some_and(|end| end.end_reason == "lease expired"));
        }
        Ok((expired * 2 > grants.len()).then_some(expired))
    })
    .await;
    let before = chaos.history.answers().lease_lost;
    for proxy in &proxies {
        proxy.heal();
    }
    let refused = seen(PATIENCE, async || {
        let refused = chaos.history.answers().lease_lost - before;
        Ok((refused > 0).then_some(refused))
    })
    .await;
    Ok(expired.zip(refused).map(|(expired, refused)| {
        format!("{expired} leases of {} expired; {refused} late calls were refused at once", grants.len())
    }))
}

/// F18.
pub(super) async fn one_way(chaos: &Chaos, random: &mut Random) -> Result<Proof> {
    let group = random.below(FAKE_GROUPS as u64) as usize;
    let proxies = &chaos.plant.fake_proxies[group];
    let before = total(proxies, |proxy| proxy.counts().held_down.load(Ordering::Relaxed));
    for proxy in proxies {
        proxy.gate(Gate::Pass, Gate::Hold);
    }
    let ahead = seen(PATIENCE / 2, async || {
        // Of a gang only its leader is told how many entries are stored.
        for grant in held_by(chaos.fleet.leading(), group) {
            let told = chaos.history.attempt(grant).map_or(0, |told| told.acked_seq);
            let statement = "select last_seq from attempt where job_id = $1 and epoch = $2";
            let query = sqlx::query_scalar(statement).bind(grant.0).bind(grant.1);
            let stored: i64 = query.fetch_one(&chaos.plant.pool).await?;
            if stored.unsigned_abs() > told {
                return Ok(Some((stored, told)));
            }
        }
        Ok(None)
    })
    .await;
    tokio::time::sleep(Duration::from_millis(random.below(4_000))).await;
    for proxy in proxies {
        proxy.cut();
        proxy.heal();
    }
    let held = total(proxies, |proxy| proxy.counts().held_down.load(Ordering::Relaxed)) - before;
    Ok(ahead.filter(|_| held > 0).map(|(stored, told)| {
        format!("{held} bytes of answers lost; entry {stored} was stored, its worker knew of {told}")
    }))
}

/// How long old requests are sent again.
const REPLAY: Duration = Duration::from_secs(6);

/// F22.
pub(super) async fn repeated_calls(chaos: &Chaos, random: &mut Random) -> Result<Proof> {
    let group = random.below(FAKE_GROUPS as u64) as usize;
    let proxies = &chaos.plant.fake_proxies[group];
    let delay = Duration::from_millis(50 + random.below(500));
    for proxy in proxies {
        proxy.gate(Gate::Delay(delay), Gate::Delay(delay));
    }
    let servers: Vec<_> = (0..chaos.plant.client_proxies.len())
        .map(|first| Plant::servers(&chaos.plant.client_proxies, first))
        .collect::<Result<_>>()?;
    let (mut taken, mut refused, mut unknown) = (0, 0, 0);
    let mut wrong = Vec::new();
    let began = Instant::now();
    while began.elapsed() < REPLAY {
        let requests = chaos.history.requests();
        for _ in 0..20 {
            let Some(request) = requests.get(random.below(requests.len() as u64) as usize) else { break };
            // An old registration looks like a new start: not too many of them.
            if request.kind() == Kind::Register && !random.once_in(20) {
                continue;
            }
            let (server, channel) = servers[random.below(servers.len() as u64) as usize].current();
            let sent = Instant::now();
            match request.clone().send(channel).await {
                Ok(()) => {
                    taken += 1;
                    chaos.history.took_again(request, sent);
                }
                Err(status) => {
                    let code = status.code();
                    match Refusal::from(status) {
                        Refusal::Unknown { .. } => {
                            unknown += 1;
                            servers.iter().for_each(|other| other.leave(server));
                        }
                        Refusal::Other { .. } if code != Code::FailedPrecondition => {
                            wrong.push(format!("{:?} again: {code:?}", request.kind()));
                        }
                        _ => refused += 1,
                    }
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for proxy in proxies {
        proxy.heal();
    }
    anyhow::ensure!(wrong.is_empty(), "repeated calls were answered strangely: {wrong:?}");
    Ok((taken > 0 && refused > 0).then(|| {
        format!("{taken} old calls taken as repetitions, {refused} refused, {unknown} unanswered; others {delay:?} late")
    }))
}

/// What may come together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Quick {
    FakesKilled,
    ConnectionsCut,
    AnswersBroken,
    DatabaseConnectionsCut,
    CoordinatorStopped,
    CoordinatorsTwice,
}

const QUICK: [Quick; 6] = [
    Quick::FakesKilled,
    Quick::ConnectionsCut,
    Quick::AnswersBroken,
    Quick::DatabaseConnectionsCut,
    Quick::CoordinatorStopped,
    Quick::CoordinatorsTwice,
];

/// F41.
pub(super) async fn several(chaos: &Chaos, random: &mut Random) -> Result<Proof> {
    let mut chosen = QUICK;
    random.shuffle(&mut chosen);
    let seeds = [random.next(), random.next(), random.next()];
    let one = |index: usize| Box::pin(quick(chosen[index], chaos, Random::new(seeds[index])));
    let (first, second, third) = tokio::join!(one(0), one(1), one(2));
    let seen: Vec<String> = [first?, second?, third?].into_iter().flatten().collect();
    let serve = coordinators::all_serve(chaos).await;
    Ok((seen.len() >= 2 && serve).then(|| seen.join(" + ")))
}

async fn quick(what: Quick, chaos: &Chaos, mut random: Random) -> Result<Proof> {
    let plant = &chaos.plant;
    let group = random.below(FAKE_GROUPS as u64) as usize;
    match what {
        Quick::FakesKilled => {
            let mut fakes = chaos.fleet.at_work();
            random.shuffle(&mut fakes);
            fakes.truncate(6);
            let killed = fakes.iter().filter_map(|(number, _)| chaos.fleet.kill(*number)).count();
            tokio::time::sleep(Duration::from_millis(random.below(3_000))).await;
            fakes.iter().try_for_each(|(number, _)| chaos.fleet.start(*number))?;
            Ok((killed > 0).then(|| format!("{killed} fakes killed")))
        }
        Quick::ConnectionsCut => {
            let cuts = |proxy: &Proxy| proxy.counts().cut.load(Ordering::Relaxed);
            let before = total(&plant.fake_proxies[group], cuts);
            plant.fake_proxies[group].iter().for_each(Proxy::cut);
            tokio::time::sleep(Duration::from_millis(500)).await;
            let cut = total(&plant.fake_proxies[group], cuts) - before;
            Ok((cut > 0).then(|| format!("{cut} pipes cut")))
        }
        Quick::AnswersBroken => {
            let broken = |proxy: &Proxy| proxy.counts().cut_in_answer.load(Ordering::Relaxed);
            let before = total(&plant.fake_proxies[group], broken);
            plant.fake_proxies[group].iter().for_each(|proxy| proxy.cut_in_answers(5));
            tokio::time::sleep(Duration::from_secs(2)).await;
            plant.fake_proxies[group].iter().for_each(|proxy| proxy.cut_in_answers(0));
            let broken = total(&plant.fake_proxies[group], broken) - before;
            Ok((broken > 0).then(|| format!("{broken} answers cut in their middle")))
        }
        Quick::DatabaseConnectionsCut => {
            let proxy = &plant.database_proxies[random.below(plant.database_proxies.len() as u64) as usize];
            let before = proxy.counts().cut.load(Ordering::Relaxed);
            proxy.cut();
            tokio::time::sleep(Duration::from_millis(500)).await;
            let cut = proxy.counts().cut.load(Ordering::Relaxed) - before;
            Ok((cut > 0).then(|| format!("{cut} pipes to Postgres cut")))
        }
        Quick::CoordinatorStopped => {
            let number = random.below(plant.coordinators.len() as u64) as usize;
            let Some(pid) =
                plant.coordinators[number].lock().await.daemon.as_ref().map(|daemon| daemon.pid())
            else {
                return Ok(None);
            };
            let pid = nix::unistd::Pid::from_raw(pid);
            nix::sys::signal::kill(pid, Signal::SIGSTOP)?;
            tokio::time::sleep(Duration::from_millis(2_000 + random.below(6_000))).await;
            // It may have been killed meanwhile.
            let went_on = nix::sys::signal::kill(pid, Signal::SIGCONT).is_ok();
            Ok(went_on.then(|| format!("coordinator {number} stopped for a while")))
        }
        Quick::CoordinatorsTwice => coordinators::killed(chaos, &mut random).await,
    }
}
