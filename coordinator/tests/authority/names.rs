use cakes_coordinator::core::access::Role;
use cakes_coordinator::core::spiffe::{Authority, Holder, Name, NamesNobody};
use proptest::prelude::*;

fn domain() -> Name {
    "cakes".parse().unwrap()
}

fn holders() -> impl Strategy<Value = Holder> {
    let name = "[a-z0-9][a-z0-9._-]{0,63}".prop_map(|name| name.parse::<Name>().unwrap());
    let role = prop::sample::select(Role::ALL);
    (name, role, 0..3).prop_map(|(name, role, kind)| match kind {
        0 => Holder::User { role, name },
        1 => Holder::Worker { name },
        _ => Holder::Coordinator { name },
    })
}

proptest! {
    #[test]
    fn a_holder_comes_back_from_its_uri_and_only_under_its_authority(holder in holders()) {
        let uri = holder.uri(&domain());
        prop_assert_eq!(Holder::from_uri(&uri, &domain()), Ok(holder.clone()));
        for signer in Authority::ALL {
            let found = Holder::certified(&[&uri], &domain(), *signer);
            prop_assert_eq!(found.is_ok(), *signer == holder.authority());
        }
        prop_assert_eq!(Holder::certified(&[&uri, &uri], &domain(), holder.authority()), Err(NamesNobody::Count(2)));
        let other = "cake".parse().unwrap();
        prop_assert!(Holder::from_uri(&uri, &other).is_err());
    }

    /// Whatever is accepted is what its own identity would be written as.
    #[test]
    fn there_is_one_way_to_write_an_identity(text in "(spiffe://cakes/)?(user/|worker/|coordinator/|operator/|[a-z./A-Z%]){0,6}") {
        if let Ok(holder) = Holder::from_uri(&text, &domain()) {
            prop_assert_eq!(holder.uri(&domain()), text);
        }
    }

    #[test]
    fn a_name_is_what_the_rule_says(text in "[a-zA-Z0-9._/@ é-]{0,70}") {
        let bytes = text.as_bytes();
        let known = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(byte);
        let good = (1..=64).contains(&bytes.len())
            && bytes.iter().all(known)
            && !b"._-".contains(&bytes[0]);
        prop_assert_eq!(text.parse::<Name>().is_ok(), good);
    }
}

#[test]
fn what_names_nobody_says_why() {
    let of = |uri: &str| Holder::from_uri(uri, &domain()).unwrap_err().to_string();
    assert!(of("spiffe://cakes/user/root/anna").contains("'root' is no role"));
    assert!(of("spiffe://cakes/user/operator/..").contains("'..' is no name"));
    assert!(of("spiffe://cakes/worker/a/b").contains("is no identity"));
    assert!(of("spiffe://cakes.evil/worker/a").contains("begins with spiffe://cakes/"));
    assert!(of("https://cakes/worker/a").contains("begins with spiffe://cakes/"));
    let none: [&str; 0] = [];
    assert_eq!(Holder::certified(&none, &domain(), Authority::Users), Err(NamesNobody::Count(0)));
}
