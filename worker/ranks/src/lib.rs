//! Processes that train one network together, each on a device of its own: what they do
//! at the same time, through c10d, libtorch's distributed layer (`TCPStore`,
//! `ProcessGroupGloo`, and `ProcessGroupNCCL` where this libtorch and all devices have it).
//!
//! ```text
//!  rank 0                            rank 1, 2, …
//!  ──────                            ────────────
//!  Meeting::host() ─ port ────────►  Meeting::visit(port)
//!  Group::join(0) ◄────────────────► Group::join(1)
//!  sum(gradients) ◄────────────────► sum(gradients)     every call is made by all, in one order
//! ```
//!
//! A process that ends makes the calls of the others fail at once; one that hangs makes
//! them fail after the time limit of the group.

mod bridge;

use std::ffi::{CString, c_char};
use std::ptr::NonNull;
use std::time::Duration;

use bridge::checked;
use tch::{Device, Kind, Tensor};

/// What went wrong between the processes.
#[derive(Debug, thiserror::Error)]
pub enum RanksError {
    /// The text is libtorch's.
    #[error("cannot {what}: {text}")]
    Failed { what: &'static str, text: String },
    #[error("rank {rank} of {size}: a rank is less than the number of processes, which is 1 or more")]
    Rank { rank: u32, size: u32 },
    #[error(
        "a tensor that is summed over processes is contiguous, of floats, and in memory of the host or of a GPU of this group"
    )]
    Tensor,
    #[error(transparent)]
    Torch(#[from] tch::TchError),
}

fn call<T>(
    what: &'static str,
    call: impl FnOnce(*mut *mut c_char) -> *mut T,
) -> Result<NonNull<T>, RanksError> {
    checked(call).map_err(|text| RanksError::Failed { what, text })
}

/// Where the processes find each other.
#[derive(Debug)]
pub struct Meeting {
    store: NonNull<bridge::Store>,
    /// Address of this machine by which the others reach this process.
    own: CString,
}

#[allow(unsafe_code)]
// SAFETY: c10d's store locks what its threads share, and belongs to no thread.
unsafe impl Send for Meeting {}

impl Meeting {
    /// Serves the meeting on a free port, for whoever reaches this machine; the processes find
    /// this one at its address.
    ///
    /// # Errors
    /// The address is not of this machine.
    pub fn host(address: &str, limit: Duration) -> Result<Self, RanksError> {
        Meeting::open("serve a meeting of ranks", address, address, 0, true, limit)
    }

    /// Goes to the meeting that another process of this machine serves.
    ///
    /// # Errors
    /// Nobody answers there within the limit.
    pub fn visit(host: &str, port: u16, limit: Duration) -> Result<Self, RanksError> {
        Meeting::visit_from(host, host, port, limit)
    }

    /// Goes to the meeting that a process of another machine serves; `own` is where that one
    /// reaches this machine.
    ///
    /// # Errors
    /// Nobody answers there within the limit.
    pub fn visit_from(own: &str, host: &str, port: u16, limit: Duration) -> Result<Self, RanksError> {
        Meeting::open("go to the meeting of ranks", own, host, port, false, limit)
    }

    fn open(
        what: &'static str,
        own: &str,
        host: &str,
        port: u16,
        serves: bool,
        limit: Duration,
    ) -> Result<Self, RanksError> {
        let text = |text: &str| {
            let bad = |_| RanksError::Failed { what, text: format!("{text:?} is no address") };
            CString::new(text).map_err(bad)
        };
        let (own, host) = (text(own)?, text(host)?);
        #[allow(unsafe_code)]
        // SAFETY: the string ends with NUL and lives until the call returns.
        let store = call(what, |error| unsafe {
            bridge::ranks_open_store(host.as_ptr(), port, serves, millis(limit), error)
        })?;
        Ok(Meeting { store, own })
    }

    pub fn port(&self) -> u16 {
        #[allow(unsafe_code)]
        // SAFETY: the store lives as long as this value.
        unsafe {
            bridge::ranks_port(self.store.as_ptr())
        }
    }
}

impl Drop for Meeting {
    fn drop(&mut self) {
        #[allow(unsafe_code)]
        // SAFETY: made by the bridge, closed once.
        unsafe {
            bridge::ranks_close_store(self.store.as_ptr());
        }
    }
}

/// Whose turn it is: 0 leads, of so many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seat {
    rank: u32,
    size: u32,
}

impl Seat {
    /// # Errors
    /// There is no such rank.
    pub fn new(rank: u32, size: u32) -> Result<Self, RanksError> {
        if rank < size { Ok(Seat { rank, size }) } else { Err(RanksError::Rank { rank, size }) }
    }

    pub fn rank(self) -> u32 {
        self.rank
    }

    pub fn size(self) -> u32 {
        self.size
    }
}

/// The processes, connected. All of them make the same calls in the same order.
#[derive(Debug)]
pub struct Group {
    group: NonNull<bridge::Group>,
    seat: Seat,
    /// Ends after the group.
    _meeting: Meeting,
}

#[allow(unsafe_code)]
// SAFETY: as for a meeting.
unsafe impl Send for Group {}

impl Group {
    /// Waits until all are there, at most as long as the meeting's limit. `limit` is that
    /// of every call to come.
    ///
    /// # Errors
    /// Somebody did not come.
    pub fn join(meeting: Meeting, seat: Seat, limit: Duration) -> Result<Self, RanksError> {
        Group::join_on(meeting, seat, limit, Device::Cpu)
    }

    /// The same for a process that computes on this device. Where all of them have a GPU, and
    /// this libtorch has NCCL, tensors are summed between those ([`Group::sums_on`]).
    ///
    /// # Errors
    /// As [`Group::join`].
    pub fn join_on(
        meeting: Meeting,
        seat: Seat,
        limit: Duration,
        device: Device,
    ) -> Result<Self, RanksError> {
        let gpu = match device {
            Device::Cuda(number) => i32::try_from(number).unwrap_or(-1),
            _ => -1,
        };
        #[allow(unsafe_code)]
        // SAFETY: store and string live until the call returns.
        let group = call("meet the other ranks", |error| unsafe {
            let (store, own) = (meeting.store.as_ptr(), meeting.own.as_ptr());
            bridge::ranks_join(store, own, seat.rank, seat.size, millis(limit), gpu, error)
        })?;
        Ok(Group { group, seat, _meeting: meeting })
    }

    pub fn seat(&self) -> Seat {
        self.seat
    }

    /// Whether tensors of this device are summed where they are; others go through host memory.
    pub fn sums_on(&self, device: Device) -> bool {
        #[allow(unsafe_code)]
        // SAFETY: the group lives as long as this value.
        let on_gpus = || unsafe { bridge::ranks_sum_on_gpus(self.group.as_ptr()) };
        device == Device::Cpu || matches!(device, Device::Cuda(_)) && on_gpus()
    }

    /// Replaces the values by their sums over all processes; every process gets the same
    /// bits. The tensor is contiguous, and of a device that is summed on.
    ///
    /// # Errors
    /// It is not, another process has ended, or one did not come within the limit.
    pub fn sum(&self, tensor: &mut Tensor) -> Result<(), RanksError> {
        let is_plain = self.sums_on(tensor.device()) && tensor.is_contiguous();
        if !is_plain || !matches!(tensor.f_kind()?, Kind::Float | Kind::Double) {
            return Err(RanksError::Tensor);
        }
        #[allow(unsafe_code)]
        // SAFETY: group and tensor live until the call returns, and nobody else looks at the
        // tensor meanwhile.
        let summed = call("sum over the ranks", |error| unsafe {
            bridge::ranks_sum(self.group.as_ptr(), tensor.as_ptr(), error).cast_mut()
        });
        summed.map(drop)
    }

    /// The sums of numbers over all processes.
    ///
    /// # Errors
    /// As [`Group::sum`].
    pub fn sum_of(&self, values: &[f64]) -> Result<Vec<f64>, RanksError> {
        let mut tensor = Tensor::f_from_slice(values)?;
        self.sum(&mut tensor)?;
        let mut sums = vec![0.0; values.len()];
        tensor.f_copy_data(&mut sums, values.len())?;
        Ok(sums)
    }

    /// What every process has, by rank; all give equally many numbers.
    ///
    /// # Errors
    /// As [`Group::sum`].
    pub fn gather(&self, values: &[f64]) -> Result<Vec<Vec<f64>>, RanksError> {
        let (rank, size) = (self.seat.rank as usize, self.seat.size as usize);
        let mut all = vec![0.0; size * values.len()];
        all[rank * values.len()..][..values.len()].copy_from_slice(values);
        // A sum with zeros is the number itself.
        let all = self.sum_of(&all)?;
        Ok((0..size).map(|rank| all[rank * values.len()..][..values.len()].to_vec()).collect())
    }

    /// The sum over all processes, for a loss: each computes a part of one scalar, and the
    /// gradient of what is summed is the sum of what it is in every part. The tensor is of a
    /// device that is summed on.
    ///
    /// # Errors
    /// As [`Group::sum`].
    pub fn summed(&self, tensor: &Tensor) -> Result<Tensor, RanksError> {
        #[allow(unsafe_code)]
        // SAFETY: group and tensor live; what comes back is a new tensor that nobody else
        // has.
        unsafe {
            let sum = call("sum over the ranks", |error| {
                bridge::ranks_summed(self.group.as_ptr(), tensor.as_ptr(), error)
            })?;
            Ok(Tensor::from_ptr(sum.as_ptr()))
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        #[allow(unsafe_code)]
        // SAFETY: made by the bridge, left once.
        unsafe {
            bridge::ranks_leave(self.group.as_ptr());
        }
    }
}

fn millis(limit: Duration) -> u64 {
    u64::try_from(limit.as_millis()).unwrap_or(u64::MAX)
}
