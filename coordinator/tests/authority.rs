//! Whom certificates are for, and the private authority that issues them.

mod authority {
    mod names;
    mod pki;
}
