//! From a text to a token that may act: presented, authentic, active, each state consumed by the next.
//!
//! The caller looks up the window that the head names and hands in what its row says, the clock and the session. It
//! also has to see that the key id in the head is that of the row and not retired; where it is not, or where there is
//! no such window, it calls `burn` and refuses with `unknown_window`.

use std::fmt;
use std::hint::black_box;

use super::active::ActiveToken;
use super::attenuate;
use super::circumstance::{self, Circumstance, WindowFacts};
use super::claims::Claims;
use super::mac::{self, Secret, WindowKey};
use super::refusals;
use super::wire::{self, Chain, Form, hex};
use super::{BlockId, WindowId};
use crate::refusal::Refusal;

/// A text that follows the grammar. Nothing that it says has been verified.
pub struct PresentedToken {
    form: Form,
    chain: Chain,
    tag: Secret,
}

impl fmt::Debug for PresentedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PresentedToken")
            .field("form", &self.form)
            .field("window", &hex(self.window()))
            .finish_non_exhaustive()
    }
}

impl PresentedToken {
    /// Parses a token or a proof.
    ///
    /// # Errors
    /// `token_refused`, the same for every fault.
    pub fn parse(text: &str) -> Result<PresentedToken, Refusal> {
        let (form, chain, tag) = wire::split(text).map_err(|_| refusals::token_refused())?;
        Ok(PresentedToken { form, chain, tag })
    }

    /// The key id that the head names.
    pub fn kid(&self) -> u32 {
        self.chain.kid()
    }

    /// The window that the head names.
    pub fn window(&self) -> &WindowId {
        self.chain.window()
    }

    /// How it is presented.
    pub fn form(&self) -> Form {
        self.form
    }

    /// The identifiers that the blocks would have.
    pub fn block_ids(&self) -> Vec<BlockId> {
        self.chain.block_ids()
    }

    /// The name under which the text may be shown while nothing of it is proven.
    pub fn public_id(&self) -> String {
        let leaf = self.chain.block_ids().pop().unwrap_or_default();
        super::public_id(self.window(), &leaf)
    }

    /// Verifies the signature, then reads the blocks. `challenge` is the one that this session has open, and a proof
    /// needs one. A caller that has none should refuse a proof before it looks the window up, so that
    /// `proof_stale` does not tell which windows exist.
    ///
    /// # Errors
    /// `proof_stale`, `token_refused`; behind the signature `caveat_malformed`, `too_deep`, `wider_than_parent`.
    pub fn authenticate(self, key: &WindowKey, challenge: Option<&str>) -> Result<AuthenticToken, Refusal> {
        let chain_tag = mac::chain_tag(key, &self.chain);
        let expected = match self.form {
            Form::Bearer => chain_tag,
            Form::Proof => {
                let open = challenge.filter(|challenge| wire::is_challenge(challenge));
                mac::proof_tag(&chain_tag, open.ok_or_else(refusals::proof_stale)?)
            }
        };
        if !expected.equals(&self.tag) {
            return Err(refusals::token_refused());
        }
        let form = self.form;
        Ok(AuthenticToken { form, blocks: Blocks::read(self.chain)? })
    }

    /// Does the work of deriving a key and verifying under it, for nothing: a window that does not exist then takes
    /// as long as a bad signature.
    pub fn burn(&self) {
        let key = mac::window_key(&[0x5c; 32], 0, 0, self.window(), &[0x36; 16]);
        let chain_tag = mac::chain_tag(&key, &self.chain);
        let expected = match self.form {
            Form::Bearer => chain_tag,
            Form::Proof => mac::proof_tag(&chain_tag, "agc1.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"),
        };
        black_box(expected.equals(&self.tag));
    }

    pub(super) fn into_parts(self) -> (Form, Chain, Secret) {
        (self.form, self.chain, self.tag)
    }
}

/// A chain whose blocks have been read and found not to claim more than their parents.
#[derive(Clone, Debug)]
pub(super) struct Blocks {
    pub(super) chain: Chain,
    pub(super) ids: Vec<BlockId>,
    pub(super) claims: Vec<Claims>,
}

impl Blocks {
    /// Reads the blocks strictly. Whether they are authentic is the caller's to know.
    pub(super) fn read(chain: Chain) -> Result<Blocks, Refusal> {
        let mut claims = Vec::with_capacity(wire::MAX_BLOCKS);
        for (index, block) in chain.blocks().enumerate() {
            let json = wire::decode(block).ok_or_else(refusals::token_refused)?;
            claims.push(Claims::parse(&json).map_err(|fault| refusals::caveat_malformed(index, &fault))?);
        }
        attenuate::lint(&claims)?;
        Ok(Blocks { ids: chain.block_ids(), chain, claims })
    }
}

/// A token that this server's key signed, link by link. Whether it holds here is still open.
#[derive(Clone, Debug)]
pub struct AuthenticToken {
    form: Form,
    blocks: Blocks,
}

impl AuthenticToken {
    /// The window.
    pub fn window(&self) -> &WindowId {
        self.blocks.chain.window()
    }

    /// The key id.
    pub fn kid(&self) -> u32 {
        self.blocks.chain.kid()
    }

    /// How it was presented.
    pub fn form(&self) -> Form {
        self.form
    }

    /// The blocks' identifiers, the root's first.
    pub fn block_ids(&self) -> &[BlockId] {
        &self.blocks.ids
    }

    /// What the blocks say, the root's first.
    pub fn claims(&self) -> &[Claims] {
        &self.blocks.claims
    }

    /// Head and blocks without the tag: no secret, and enough to know what was verified.
    pub fn public_text(&self) -> &str {
        self.blocks.chain.text()
    }

    /// Holds the token against the window's row and the session.
    ///
    /// # Errors
    /// The reason of the first condition that does not hold.
    pub fn activate(self, window: &WindowFacts, here: &Circumstance<'_>) -> Result<ActiveToken, Refusal> {
        let AuthenticToken { form, blocks } = self;
        let depth = circumstance::check(form, &blocks, window, here)?;
        Ok(ActiveToken::new(blocks, window, depth))
    }
}

impl ActiveToken {
    /// Rebuilds in a parallel worker what its leader has activated. The text carries no signature: it must come from
    /// the leader and never from a client. Everything but the signature and the form is checked again.
    ///
    /// # Errors
    /// Those of `authenticate` and `activate`.
    pub fn from_public_text(
        text: &str,
        window: &WindowFacts,
        here: &Circumstance<'_>,
    ) -> Result<ActiveToken, Refusal> {
        let chain = Chain::parse(text).map_err(|_| refusals::token_refused())?;
        // The leader has seen to the form; to the worker any token is as good as a proof.
        AuthenticToken { form: Form::Proof, blocks: Blocks::read(chain)? }.activate(window, here)
    }
}
