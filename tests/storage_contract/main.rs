//! What every storage must do, told as stories. An implementation is judged by one line at the foot.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod enrolment;
mod messages;
mod registrations;
mod subscribers;
mod support;
mod upkeep;

use std::sync::Arc;

use aftertone::storage::sqlite::SqliteStorage;

use crate::support::Store;

/// One test for each story, told to a storage that `$open` (an async function) makes; what it gives
/// beside the storage is kept until the story is over.
macro_rules! judge {
    ($name:ident, $open:path: $($chapter:ident::$story:ident),+ $(,)?) => {
        mod $name {
            $(
                #[tokio::test]
                async fn $story() {
                    let (storage, _kept) = $open().await;
                    crate::$chapter::$story(storage).await;
                }
            )+
        }
    };
}

async fn sqlite() -> (Store, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}/aftertone.db", dir.path().display());
    (Arc::new(SqliteStorage::open(&url).await.unwrap()), dir)
}

/// All stories, told to one implementation.
macro_rules! judge_all {
    ($name:ident, $open:path) => {
        judge!($name, $open:
            messages::a_deposited_message_is_there_with_one_notification,
            messages::a_caller_may_be_unknown,
            messages::a_repeated_deposit_changes_nothing,
            messages::a_deleted_message_does_not_come_back,
            messages::an_expired_message_does_not_come_back,
            messages::nothing_is_deposited_for_a_subscriber_who_is_gone,
            messages::missed_calls_are_kept_once_and_listed_newest_first,
            messages::nobody_sees_or_changes_what_is_anothers,
            messages::pages_are_complete_while_messages_come_and_go,
            messages::unread_and_read_messages_are_listed_apart,
            messages::a_change_names_the_version_it_is_made_from,
            messages::deleting_a_message_queues_its_recording_and_drops_its_notification,
            subscribers::the_first_number_with_a_mailbox_wins,
            subscribers::adding_tells_new_numbers_from_known_ones,
            subscribers::subscribers_are_listed_by_number,
            subscribers::settings_change_only_where_told,
            subscribers::a_greeting_that_is_replaced_is_queued_for_deletion,
            subscribers::a_file_that_no_row_comes_to_name_is_deleted_when_it_is_due,
            subscribers::removing_a_subscriber_leaves_nothing_and_queues_every_file,
            subscribers::a_token_opens_its_box_until_it_ends,
            subscribers::the_use_of_a_token_is_noted_to_the_hour,
            subscribers::a_token_needs_a_subscriber_and_a_hash_of_its_own,
            enrolment::who_signs_in_first_is_added_with_his_grant_and_a_wish,
            enrolment::without_a_core_nothing_is_registered,
            enrolment::who_signs_in_again_keeps_all_and_gets_a_new_grant_and_wish,
            enrolment::a_number_that_the_operator_added_is_bound,
            enrolment::a_number_of_another_issuers_account_is_bound_to_both,
            enrolment::a_recycled_number_shows_nothing_of_who_had_it,
            enrolment::who_has_a_new_number_keeps_his_messages,
            enrolment::a_new_number_is_taken_from_whose_account_had_it,
            enrolment::what_lay_in_a_new_numbers_unclaimed_box_is_kept,
            enrolment::a_grant_is_replaced_by_who_read_the_last_one,
            enrolment::grants_are_found_by_the_key_that_sealed_them,
            enrolment::a_session_opens_its_box_until_it_ends,
            enrolment::what_went_away_comes_back_once_and_in_time,
            registrations::changes_are_noted_together_and_those_of_gone_rows_skipped,
            registrations::a_wish_made_anew_is_a_new_row_that_knows_what_still_lives,
            registrations::everyone_is_registered_once_in_portions,
            registrations::who_leaves_is_gone_at_once_and_erased_in_time,
            registrations::leaving_again_only_brings_the_erasure_forward,
            registrations::who_has_nothing_at_the_core_leaves_without_a_trace,
            registrations::what_is_left_to_do_is_tried_until_it_is_done,
            registrations::who_comes_back_in_time_has_lost_nothing,
            registrations::who_comes_too_late_begins_anew,
            registrations::a_deletion_does_not_hit_a_registration_that_is_wanted_again,
            upkeep::notifications_come_oldest_first_until_they_are_done,
            upkeep::what_is_too_old_expires_in_portions,
            upkeep::a_hundred_deposits_at_once_are_all_kept,
            upkeep::reading_goes_on_while_writing,
            upkeep::after_closing_nothing_is_done,
        );
    };
}

judge_all!(in_sqlite, super::sqlite);
