//! Moments as people read them, in Vietnam's time: it has one zone and no summer time.

/// Vietnam's clocks are ahead of UTC by this.
const ZONE_S: u64 = 7 * 3600;

/// A moment in Vietnam, which has one time zone and no summer time.
pub fn moment(unix_ms: u64) -> String {
    let seconds = unix_ms / 1000 + ZONE_S;
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    format!("{year}-{month:02}-{day:02} {:02}:{:02}:{:02}", rest / 3600, rest / 60 % 60, rest % 60)
}

/// The date of a day counted from 1970-01-01 (Howard Hinnant, "chrono-compatible low-level date algorithms").
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let of_era = shifted % 146_097;
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year + era * 400 + u64::from(month <= 2), month, day)
}

/// The moment of this date and time in Vietnam, unix milliseconds; `None` if there is no such day, or it is before 1970.
pub fn unix_ms([year, month, day]: [u64; 3], [hour, minute]: [u64; 2]) -> Option<u64> {
    // The same algorithm backwards: years begin in March, so that the leap day is their last.
    let shifted = year.checked_sub(u64::from(month <= 2))?;
    let of_era = shifted % 400;
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day.checked_sub(1)?;
    let days = (shifted / 400 * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year).checked_sub(719_468)?;
    let seconds = (days * 86_400 + hour * 3600 + minute * 60).checked_sub(ZONE_S)?;
    (civil(days) == (year, month, day)).then_some(seconds * 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_those_of_vietnam() {
        assert_eq!(moment(0), "1970-01-01 07:00:00");
        assert_eq!(moment(1_709_139_600_000), "2024-02-29 00:00:00");
        assert_eq!(moment(1_795_327_511_000), "2026-11-22 13:05:11");
    }

    #[test]
    fn every_day_is_found_again() {
        for days in 1..40_000 {
            let (year, month, day) = civil(days);
            assert_eq!(unix_ms([year, month, day], [7, 0]), Some(days * 86_400_000));
        }
        for no_day in
            [[2026, 2, 29], [2026, 4, 31], [2026, 0, 1], [2026, 1, 0], [2026, 13, 1], [1969, 12, 31], [0, 0, 0]]
        {
            assert_eq!(unix_ms(no_day, [0, 0]), None, "{no_day:?}");
        }
    }
}
