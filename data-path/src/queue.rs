//! First-in first-out queues of tags without memory of their own: a tag is in at most
//! one queue at a time, so one link per tag serves all queues of a lane.

use crate::exchange::Tag;

/// The links of all tags of a lane.
#[derive(Debug)]
pub(crate) struct Links(Box<[u16]>);

/// A queue of tags; see the module.
#[derive(Debug)]
pub(crate) struct TagQueue {
    head: u16,
    tail: u16,
}

/// Ends a queue. Not a tag: a depth fits `u16`, so the highest tag is one below.
const END: u16 = u16::MAX;
/// Marks a tag that is in no queue, to catch one that would be in two.
const LOOSE: u16 = u16::MAX - 1;

impl Links {
    pub(crate) fn new(depth: u16) -> Self {
        assert!(depth < LOOSE, "two numbers are marks, not tags");
        Self(vec![LOOSE; usize::from(depth)].into())
    }
}

impl Default for TagQueue {
    fn default() -> Self {
        Self {
            head: END,
            tail: END,
        }
    }
}

impl TagQueue {
    pub(crate) const fn is_empty(&self) -> bool {
        self.head == END
    }

    pub(crate) const fn first(&self) -> Option<Tag> {
        if self.head == END {
            None
        } else {
            Some(Tag(self.head))
        }
    }

    pub(crate) fn push(&mut self, links: &mut Links, tag: Tag) {
        let link = &mut links.0[tag.index()];
        assert_eq!(*link, LOOSE, "tag {} is in a queue already", tag.0);
        *link = END;
        if self.head == END {
            self.head = tag.0;
        } else {
            links.0[usize::from(self.tail)] = tag.0;
        }
        self.tail = tag.0;
    }

    pub(crate) fn pop(&mut self, links: &mut Links) -> Option<Tag> {
        if self.head == END {
            return None;
        }
        let tag = Tag(self.head);
        self.head = std::mem::replace(&mut links.0[tag.index()], LOOSE);
        Some(tag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_leave_in_the_order_in_which_they_came() {
        let mut links = Links::new(8);
        let (mut one, mut two) = (TagQueue::default(), TagQueue::default());
        for n in 0..4 {
            one.push(&mut links, Tag(n));
            two.push(&mut links, Tag(7 - n));
        }
        let order: Vec<_> = std::iter::from_fn(|| one.pop(&mut links)).collect();
        assert_eq!(order, [Tag(0), Tag(1), Tag(2), Tag(3)]);
        one.push(&mut links, Tag(2));
        assert_eq!(two.first(), Some(Tag(7)));
        assert_eq!(two.pop(&mut links), Some(Tag(7)));
        assert_eq!(one.pop(&mut links), Some(Tag(2)));
        assert!(one.is_empty() && !two.is_empty());
        assert_eq!(one.first(), None);
    }

    #[test]
    #[should_panic(expected = "in a queue already")]
    fn a_tag_cannot_be_in_two_queues() {
        let mut links = Links::new(2);
        TagQueue::default().push(&mut links, Tag(1));
        TagQueue::default().push(&mut links, Tag(1));
    }
}
