//! English.

use super::{Text, Unit, lasting, moment};
use crate::join::call::Refusal;
use crate::join::code::Mistyped;

pub(super) fn say(text: &Text<'_>) -> String {
    match text {
        Text::NotJoined(refusal) => not_joined(refusal),
        Text::Joined { name, agency, points, data } => format!(
            "This machine is the point \"{name}\" of {agency} now; the mesh has {points} points.\n\
             Next, run: diemcau run --data {}",
            data.display()
        ),
        Text::ClockApart { ahead_ms, host_unix_ms } => format!(
            "Note: this machine's clock is {} the inviting point's (which says {}). {CLOCK}",
            apart(*ahead_ms),
            moment(*host_unix_ms)
        ),
        Text::AlreadyPoint { name, agency } => format!(
            "This data folder is the point \"{name}\" of {agency} already. To join another mesh, use another folder: \
             --data DIR."
        ),
        Text::Invited { name, expires, code } => format!(
            "Invite code for \"{name}\", good once, until {}. On the new machine, type:\n\n  diemcau join {code}",
            moment(*expires)
        ),
        Text::NotRunning => {
            "Note: this point does not run. The new machine can come in only while it does: diemcau run".into()
        }
        Text::KeysPrompt => "Passphrase of this point's keys".into(),
        Text::KeysNeedPassphrase { data } => format!(
            "The keys in {} are locked by a passphrase. Run this at a terminal and type it, set DIEMCAU_PASSPHRASE, or let systemd \
             hand it over as the credential diemcau-passphrase.",
            data.display()
        ),
        Text::KeysNowLocked => {
            "The keys are locked: diemcau run asks for the passphrase from now on. Keep it as well as the \
             recordings: nobody can restore it, and without it the point must join anew."
                .into()
        }
        Text::KeysLocked => "The keys are locked by a passphrase.".into(),
        Text::KeysPlain => {
            "The keys are in plain files: whoever takes this disk has them. To lock them: diemcau key lock".into()
        }
    }
}

/// How a clock is set.
const CLOCK: &str = "Set this machine's clock: sudo timedatectl set-ntp true";

fn not_joined(refusal: &Refusal) -> String {
    match refusal {
        Refusal::Mistyped(mistyped) => mistyped_code(mistyped),
        Refusal::Wrong => {
            "The inviting point does not know this code: it is another mesh's, or too old. Ask the admin for a new one."
                .into()
        }
        Refusal::Used => {
            "Another machine has used this code; each is good once. Ask the admin for a new one.".into()
        }
        Refusal::Expired { not_after_unix_ms } => {
            format!("The code expired at {}. Ask the admin for a new one.", moment(*not_after_unix_ms))
        }
        Refusal::ClockOff { ahead_ms, host_unix_ms } => format!(
            "This machine's clock is {} the inviting point's (which says {}), and by that one the code has expired. {CLOCK}; \
             then ask the admin for a new code. If this machine's clock is right, tell the admin to set the other.",
            apart(*ahead_ms),
            moment(*host_unix_ms)
        ),
        Refusal::Withdrawn => "The admin took this code back. Ask the admin for a new one.".into(),
        Refusal::Busy => {
            "The inviting point is busy, or there were too many attempts from here. Wait 5 minutes and try this code again."
                .into()
        }
        Refusal::NoRoute(tried) => format!(
            "The inviting point cannot be reached; tried {}. Check whether this machine has a network, whether the inviting \
             point runs, and whether its address has changed.",
            tried.join(", ")
        ),
        Refusal::UdpBlocked(tried) => format!(
            "The inviting point answers on TCP, but UDP is blocked; tried UDP to {}. Ask whoever runs the network to let UDP \
             through to these addresses.",
            tried.join(", ")
        ),
        Refusal::Version => {
            "The inviting point runs another version of the program. Update the older one and try again.".into()
        }
        Refusal::Unable(reason) => format!("The inviting point cannot take this machine in: {reason}"),
        Refusal::Broken(why) => {
            format!("The exchange with the inviting point broke off ({why}). Try again on this machine with the same code.")
        }
    }
}

fn mistyped_code(mistyped: &Mistyped) -> String {
    match mistyped {
        Mistyped::Empty => "There is no code. Type: diemcau join CODE".into(),
        Mistyped::Letter { group, found } => {
            format!("The code is mistyped: group {group} has \"{found}\", which no code has. Look at that group again.")
        }
        Mistyped::Length { group, letters } => {
            format!(
                "The code is mistyped: group {group} has {letters} letters, each must have 5. Look at that group again."
            )
        }
        Mistyped::Groups(groups) => format!("The code is mistyped in group {}. Look at it again.", listed(groups)),
        Mistyped::Whole => {
            "A group of the code is missing, or they are in another order. Type all of them again.".into()
        }
        Mistyped::Version(_) => {
            "The code was made by a later version of the program. Update the program on this machine.".into()
        }
    }
}

fn listed(groups: &[usize]) -> String {
    groups.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn apart(ahead_ms: i64) -> String {
    let units = lasting(ahead_ms.unsigned_abs()).into_iter().map(|(number, unit)| {
        let unit = match unit {
            Unit::Second => "s",
            Unit::Minute => "min",
            Unit::Hour => "h",
            Unit::Day => "days",
        };
        format!("{number} {unit}")
    });
    let lasting = units.collect::<Vec<_>>().join(" ");
    if ahead_ms < 0 { format!("{lasting} behind") } else { format!("{lasting} ahead of") }
}
