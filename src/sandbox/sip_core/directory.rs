//! What the proxy asks the rest of the sandbox.

use crate::domain::Msisdn;
use crate::domain::Secret;
use crate::sandbox::sip_core::proxy::mischief::Mischief;
use crate::sandbox::world::Mode;
use crate::sandbox::world::Registration;
use crate::sandbox::world::World;

/// Who has which number, and how his calls are routed.
pub(crate) trait Directory: Send + Sync {
    /// The password of a number; none where the number does not exist.
    fn password(&self, number: &Msisdn) -> Option<Secret>;
    /// Its live virtual registrations, in the order they were made.
    fn registrations(&self, number: &Msisdn) -> Vec<Registration>;
    /// How the core misbehaves towards the endpoints of a number.
    fn mischief(&self, number: &Msisdn) -> Mischief;
}

impl Directory for World {
    fn password(&self, number: &Msisdn) -> Option<Secret> {
        self.numbers.of(number).map(|number| number.password)
    }

    fn registrations(&self, number: &Msisdn) -> Vec<Registration> {
        self.registrations.of(number, self.now())
    }

    fn mischief(&self, number: &Msisdn) -> Mischief {
        let now = self.now();
        let is_on = |mode| self.modes.is_on(mode, Some(number), now);
        Mischief {
            late_ack: is_on(Mode::LateAck),
            lost_ack: is_on(Mode::LostAck),
            duplicate_invite: is_on(Mode::DuplicateInvite),
            cancel_crossing: is_on(Mode::CancelCrossing),
        }
    }
}
