//! Bounds beyond those of the tests, one after the other; some take hours.

use cakes_model::bounds;

fn main() -> Result<(), String> {
    for bounds in bounds::large() {
        println!("{}", bounds.check()?);
    }
    Ok(())
}
