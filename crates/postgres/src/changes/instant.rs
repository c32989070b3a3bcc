//! Times as the server writes them: `timestamptz` under `datestyle = ISO` and `timezone = UTC`.

use tidings_domain::time::Timestamp;

/// Reads `2026-11-25 02:08:24.123456+00`, with any offset; what is finer than milliseconds is cut. None for `infinity` and
/// what lies outside of the years 1970 to 9999.
pub(crate) fn parse(text: &str) -> Option<Timestamp> {
    let bytes = text.as_bytes();
    let (date, rest) = bytes.split_first_chunk::<10>()?;
    let (time, rest) = rest.split_first_chunk::<9>()?;
    if date[4] != b'-'
        || date[7] != b'-'
        || !matches!(time[0], b' ' | b'T')
        || time[3] != b':'
        || time[6] != b':'
    {
        return None;
    }
    let (year, month, day) = (number(&date[..4])?, number(&date[5..7])?, number(&date[8..])?);
    let (hour, minute, second) = (number(&time[1..3])?, number(&time[4..6])?, number(&time[7..])?);
    if year < 1970
        || !(1..=12).contains(&month)
        || !(1..=31).contains(&day)
        || hour > 24
        || minute > 59
        || second > 60
    {
        return None;
    }
    let (millis, rest) = fraction(rest)?;
    let seconds = days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second - offset(rest)?;
    let millis = seconds * 1000 + millis;
    (0..=Timestamp::MAX.as_millis()).contains(&millis).then(|| Timestamp::from_millis(millis))
}

fn number(digits: &[u8]) -> Option<i64> {
    digits
        .iter()
        .try_fold(0, |number, digit| digit.is_ascii_digit().then(|| number * 10 + i64::from(digit - b'0')))
}

/// Milliseconds of `.123456`, and what follows.
fn fraction(text: &[u8]) -> Option<(i64, &[u8])> {
    let Some(digits) = text.strip_prefix(b".") else { return Some((0, text)) };
    let length = digits.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if !(1..=9).contains(&length) {
        return None;
    }
    let (digits, rest) = digits.split_at(length);
    let millis = (0..3)
        .fold(0, |number, place| number * 10 + digits.get(place).map_or(0, |digit| i64::from(digit - b'0')));
    Some((millis, rest))
}

/// Seconds of `Z`, `+00`, `-03:30`, `+01:02:03`.
fn offset(text: &[u8]) -> Option<i64> {
    let (sign, rest) = match text.split_first()? {
        (b'Z', []) => return Some(0),
        (b'+', rest) => (1, rest),
        (b'-', rest) => (-1, rest),
        _ => return None,
    };
    let parts = match rest {
        [a, b] => [number(&[*a, *b])?, 0, 0],
        [a, b, b':', c, d] => [number(&[*a, *b])?, number(&[*c, *d])?, 0],
        [a, b, b':', c, d, b':', e, f] => [number(&[*a, *b])?, number(&[*c, *d])?, number(&[*e, *f])?],
        _ => return None,
    };
    Some(sign * (parts[0] * 3600 + parts[1] * 60 + parts[2]))
}

/// Days from 1970-01-01, counted from March so that a leap day is a year's last.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let of_year = (153 * month + 2) / 5 + day - 1;
    year * 365 + year / 4 - year / 100 + year / 400 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_the_domain_writes_them() {
        let table = [
            ("2026-11-25 02:08:24.123456+00", "2026-11-25T02:08:24.123Z"),
            ("2026-11-25 02:08:24+00", "2026-11-25T02:08:24.000Z"),
            ("2026-11-25 02:08:24.1+02", "2026-11-25T00:08:24.100Z"),
            ("2024-02-29 23:59:59.999-03:30", "2024-03-01T03:29:59.999Z"),
            ("1970-01-01 00:00:00+00", "1970-01-01T00:00:00.000Z"),
            ("2000-03-01 00:00:00.0079+00:00:00", "2000-03-01T00:00:00.007Z"),
            ("9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59.999Z"),
        ];
        for (text, written) in table {
            assert_eq!(parse(text).expect(text).to_string(), written);
        }
    }

    #[test]
    fn every_day_is_the_one_that_the_domain_has() {
        for day in 0..120_000_i64 {
            let time = Timestamp::from_millis(day * 86_400_000);
            assert_eq!(parse(&time.to_string()), Some(time));
        }
    }

    #[test]
    fn what_is_no_time_of_ours_is_none() {
        for text in [
            "",
            "infinity",
            "-infinity",
            "1969-12-31 23:59:59+00",
            "10000-01-01 00:00:00+00",
            "2026-11-25 02:08:24",
            "2026-11-25 02:08:24+0",
            "2026-11-25 02:08:24.+00",
            "2026-13-25 02:08:24+00",
            "2026-11-25 02:08:24+00 BC",
            "2026-11-2502:08:24.0+00",
            "äöüäöüäöüäöü",
            "1970-01-01 00:00:00+01",
            "2026-11-25 02:08:24.1234567890+00",
        ] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }
}
