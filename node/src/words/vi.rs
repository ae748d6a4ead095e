//! Tiếng Việt.

use super::{Text, Unit, lasting, moment};
use crate::join::call::Refusal;
use crate::join::code::Mistyped;

pub(super) fn say(text: &Text<'_>) -> String {
    match text {
        Text::NotJoined(refusal) => not_joined(refusal),
        Text::Joined { name, agency, points, data } => format!(
            "Máy này đã là điểm cầu \"{name}\" của {agency}; mạng có {points} điểm cầu.\n\
             Tiếp theo, hãy chạy: diemcau run --data {}",
            data.display()
        ),
        Text::ClockApart { ahead_ms, host_unix_ms } => format!(
            "Lưu ý: đồng hồ của máy này {} so với điểm mời (bên đó là {}). {CLOCK}",
            apart(*ahead_ms),
            moment(*host_unix_ms)
        ),
        Text::AlreadyPoint { name, agency } => format!(
            "Thư mục dữ liệu này đã là điểm cầu \"{name}\" của {agency}. Muốn vào mạng khác, hãy dùng một thư mục khác: \
             --data THƯ_MỤC."
        ),
        Text::Invited { name, expires, code } => format!(
            "Mã mời cho \"{name}\", dùng được một lần, đến {}. Trên máy mới, hãy gõ:\n\n  diemcau join {code}",
            moment(*expires)
        ),
        Text::NotRunning => "Lưu ý: điểm mời này chưa chạy. Máy mới chỉ vào được khi ở đây đã chạy: diemcau run".into(),
        Text::KeysPrompt => "Mật khẩu khóa của điểm cầu này".into(),
        Text::KeysNeedPassphrase { data } => format!(
            "Khóa trong {} được bảo vệ bằng mật khẩu. Hãy chạy lệnh này ở cửa sổ dòng lệnh rồi gõ mật khẩu, đặt biến \
             DIEMCAU_PASSPHRASE, hoặc để systemd trao mật khẩu qua credential diemcau-passphrase.",
            data.display()
        ),
        Text::KeysNowLocked => {
            "Khóa đã được bảo vệ bằng mật khẩu: từ nay diemcau run sẽ hỏi mật khẩu này. Hãy giữ mật khẩu \
             cẩn thận như giữ bản ghi: không ai khôi phục được, mất mật khẩu thì điểm cầu phải tham gia lại từ đầu."
                .into()
        }
        Text::KeysLocked => "Khóa đang được bảo vệ bằng mật khẩu.".into(),
        Text::KeysPlain => {
            "Khóa nằm trong tệp không có mật khẩu: ai lấy được ổ đĩa này sẽ có khóa. Để bảo vệ: diemcau key lock".into()
        }
    }
}

/// Cách chỉnh đồng hồ.
const CLOCK: &str = "Hãy chỉnh đồng hồ máy này: sudo timedatectl set-ntp true";

fn not_joined(refusal: &Refusal) -> String {
    match refusal {
        Refusal::Mistyped(mistyped) => mistyped_code(mistyped),
        Refusal::Wrong => {
            "Điểm mời không biết mã này: mã của mạng khác, hoặc đã quá cũ. Hãy xin quản trị mã mới.".into()
        }
        Refusal::Used => {
            "Mã mời đã được một máy khác dùng; mỗi mã chỉ dùng được một lần. Hãy xin quản trị mã mới.".into()
        }
        Refusal::Expired { not_after_unix_ms } => {
            format!("Mã mời đã hết hạn lúc {}. Hãy xin quản trị mã mới.", moment(*not_after_unix_ms))
        }
        Refusal::ClockOff { ahead_ms, host_unix_ms } => format!(
            "Đồng hồ của máy này {} so với điểm mời (bên đó là {}), và theo điểm mời thì mã đã hết hạn. {CLOCK}; rồi xin \
             quản trị mã mới. Nếu đồng hồ máy này đúng, hãy báo quản trị chỉnh đồng hồ bên mời.",
            apart(*ahead_ms),
            moment(*host_unix_ms)
        ),
        Refusal::Withdrawn => "Mã mời đã bị quản trị thu hồi. Hãy xin quản trị mã mới.".into(),
        Refusal::Busy => {
            "Điểm mời đang bận hoặc đã có quá nhiều lần thử từ đây. Hãy đợi 5 phút rồi thử lại mã này.".into()
        }
        Refusal::NoRoute(tried) => format!(
            "Không kết nối được với điểm mời; đã thử {}. Hãy kiểm tra: máy này có mạng không, điểm mời có đang chạy không, \
             địa chỉ của điểm mời có đổi không.",
            tried.join(", ")
        ),
        Refusal::UdpBlocked(tried) => format!(
            "Kết nối được với điểm mời bằng TCP nhưng UDP bị chặn; đã thử UDP đến {}. Hãy nhờ người quản lý mạng cho phép UDP \
             đến các địa chỉ này.",
            tried.join(", ")
        ),
        Refusal::Version => {
            "Điểm mời dùng phiên bản khác của chương trình. Hãy cập nhật bên cũ hơn rồi thử lại.".into()
        }
        Refusal::Unable(reason) => format!("Điểm mời không nhận được máy này: {reason}"),
        Refusal::Broken(why) => {
            format!("Cuộc trao đổi với điểm mời bị đứt ({why}). Hãy thử lại trên máy này với cùng mã.")
        }
    }
}

fn mistyped_code(mistyped: &Mistyped) -> String {
    match mistyped {
        Mistyped::Empty => "Chưa có mã mời. Hãy gõ: diemcau join MÃ".into(),
        Mistyped::Letter { group, found } => {
            format!("Mã mời gõ sai: nhóm {group} có ký tự \"{found}\", mã không dùng ký tự này. Hãy xem lại nhóm đó.")
        }
        Mistyped::Length { group, letters } => {
            format!("Mã mời gõ sai: nhóm {group} có {letters} ký tự, mỗi nhóm phải có 5. Hãy xem lại nhóm đó.")
        }
        Mistyped::Groups(groups) => format!("Mã mời gõ sai ở nhóm {}. Hãy xem lại nhóm đó.", listed(groups)),
        Mistyped::Whole => "Mã mời thiếu nhóm, hoặc các nhóm không đúng thứ tự. Hãy gõ lại tất cả các nhóm.".into(),
        Mistyped::Version(_) => {
            "Mã mời do phiên bản mới hơn của chương trình tạo ra. Hãy cập nhật chương trình trên máy này.".into()
        }
    }
}

fn listed(groups: &[usize]) -> String {
    groups.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn apart(ahead_ms: i64) -> String {
    let units = lasting(ahead_ms.unsigned_abs()).into_iter().map(|(number, unit)| {
        let unit = match unit {
            Unit::Second => "giây",
            Unit::Minute => "phút",
            Unit::Hour => "giờ",
            Unit::Day => "ngày",
        };
        format!("{number} {unit}")
    });
    let lasting = units.collect::<Vec<_>>().join(" ");
    if ahead_ms < 0 { format!("chậm {lasting}") } else { format!("nhanh {lasting}") }
}
