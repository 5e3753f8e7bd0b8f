//! Wheels of the package index: libtorch and what it needs, found and fetched
//! by a pip of known version, checked by their hashes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::process;

/// What a wheel is called, and what its bytes must be: NAME==VERSION=SHA256.
type Wheel = &'static str;

/// The CPU variant takes a few libraries out of these.
pub const CPU: [Wheel; 3] = [
    "torch==2.11.0=7aa2f9bbc6d4595ba72138026b2074be1233186150e9292865e04b7a63b8c67a",
    "nvidia-cuda-runtime==13.0.96=7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548",
    "nvidia-cuda-cupti==13.0.85=4eb01c08e859bf924d222250d2e8f8b8ff6d3db4721288cf35d14252a4d933c8",
];

/// What the CUDA variant needs beside [`CPU`]: the shared libraries that
/// torch's metadata name. Its Python packages are of no use to C++.
pub const CUDA: [Wheel; 13] = [
    "nvidia-cudnn-cu13==9.19.0.56=d20e1734305e9d68889a96e3f35094d733ff1f83932ebe462753973e53a572bf",
    "nvidia-cusparselt-cu13==0.8.0=25e30a8a7323935d4ad0340b95a0b69926eee755767e8e0b1cf8dd85b197d3fd",
    "nvidia-nccl-cu13==2.28.9=e4553a30f34195f3fa1da02a6da3d6337d28f2003943aa0a3d247bbc25fefc42",
    "nvidia-nvshmem-cu13==3.4.5=290f0a2ee94c9f3687a02502f3b9299a9f9fe826e6d0287ee18482e78d495b80",
    "nvidia-cublas==13.1.0.3=ee8722c1f0145ab246bccb9e452153b5e0515fd094c3678df50b2a0888b8b171",
    "nvidia-cuda-nvrtc==13.0.88=ad9b6d2ead2435f11cbb6868809d2adeeee302e9bb94bcf0539c7a40d80e8575",
    "nvidia-cufft==12.0.0.61=6c44f692dce8fd5ffd3e3df134b6cdb9c2f72d99cf40b62c32dde45eea9ddad3",
    "nvidia-cufile==1.15.1.6=08a3ecefae5a01c7f5117351c64f17c7c62efa5fffdbe24fc7d298da19cd0b44",
    "nvidia-curand==10.4.0.35=1aee33a5da6e1db083fe2b90082def8915f30f3248d5896bcec36a579d941bfc",
    "nvidia-cusolver==12.0.4.66=0a759da5dea5c0ea10fd307de75cdeb59e7ea4fcb8add0924859b944babf1112",
    "nvidia-cusparse==12.6.3.3=2b3c89c88d01ee0e477cb7f82ef60a11a4bcd57b6b87c33f789350b59759360b",
    "nvidia-nvjitlink==13.0.88=13a74f429e23b921c1109976abefacc69835f2f433ebd323d3946e11d804e47b",
    "nvidia-nvtx==13.0.85=4936d1d6780fbe68db454f5e72a42ff64d1fd6397df9f363ae786930fd5c1cd4",
];

const PIP_VERSION: &str = "25.3";
const PIP_SHA256: &str = "9655943313a94722b7774661c21049070f6bbb0a1516bf02f7c8d5d9201514cd";

/// Fetches wheels to `folder`, going on where an earlier run was cut off.
pub fn fetch(folder: &Path, wheels: &[Wheel]) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let pip = known_pip(folder)?;
    let mut command = python();
    command.env("PYTHONPATH", pip).args(["-c", include_str!("fetch_wheels.py")]).arg(folder).args(wheels);
    process::run_named("the download", &mut command).context("run the set-up again to go on from here")
}

/// A pip whose inner workings are known: `fetch_wheels.py` relies on them.
fn known_pip(folder: &Path) -> Result<PathBuf> {
    let target = folder.join(format!("pip-{PIP_VERSION}"));
    if target.join("pip").is_dir() {
        return Ok(target);
    }
    let requirements = folder.join("pip.txt");
    fs::write(&requirements, format!("pip=={PIP_VERSION} --hash=sha256:{PIP_SHA256}\n"))?;
    let mut command = python();
    command.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-input",
        "--no-compile",
    ]);
    command
        .args(["--no-deps", "--only-binary=:all:", "--require-hashes", "--requirement"])
        .arg(&requirements);
    process::run_quiet(command.arg("--target").arg(&target))?;
    Ok(target)
}

fn python() -> Command {
    let mut command = Command::new("python3");
    // A user's virtual environment is neither needed nor changed.
    command
        .env_remove("PYTHONHOME")
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("PIP_ROOT_USER_ACTION", "ignore");
    command
}

/// Unpacks all wheels of `folder` whole.
pub fn unpack(folder: &Path, target: &Path) -> Result<()> {
    let script = "
import pathlib, sys, zipfile
for wheel in sorted(pathlib.Path(sys.argv[1]).glob('*.whl')):
    zipfile.ZipFile(wheel).extractall(sys.argv[2])
";
    process::run_quiet(python().args(["-c", script]).arg(folder).arg(target))
}

/// Takes torch's headers and some `libraries` out of the wheels of `folder`.
pub fn unpack_libraries(folder: &Path, target: &Path, libraries: &[&str]) -> Result<()> {
    let script = "
import pathlib, shutil, sys, zipfile
wheels, target, wanted = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), set(sys.argv[3:])
for wheel in sorted(wheels.glob('*.whl')):
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name in wanted:
                place = target / 'lib' / name.rsplit('/', 1)[1]
                wanted.discard(name)
            elif name.startswith('torch/include/') and not name.endswith('/'):
                place = target / name.removeprefix('torch/')
            else:
                continue
            place.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(name) as source, open(place, 'wb') as sink:
                shutil.copyfileobj(source, sink, 1 << 20)
if wanted:
    sys.exit('the wheels lack ' + ', '.join(sorted(wanted)))
";
    process::run_quiet(python().args(["-c", script]).arg(folder).arg(target).args(libraries))
}
