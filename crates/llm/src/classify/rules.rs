//! The table: which provider, status, code and text mean what.
//!
//! Read from top to bottom, the first row that fits decides. Rows of one provider come before those of all, rows by code
//! before rows by status. Every row has a fixture (`tests/fixtures/classify/`), a body as that provider sends it, with
//! where it is known from.
//!
//! A row by text for a status that callers can provoke (400 and the like) is anchored at the message's start with `^`:
//! a provider may quote a caller's words in its message, and no caller may put a key out by writing "insufficient balance".

use super::LimitScope::{self, Key, Model};
use super::ProviderKind;

/// What a row says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Means {
    Fault,
    /// The caller's fault, but another key may allow it.
    FaultHere,
    Dead,
    Denied,
    Limited(LimitScope),
    /// Limited; the message tells whether it binds the key or the model.
    LimitedAsSaid,
    Quota(LimitScope),
    /// A quota of Google's that is renewed at midnight in California.
    PacificDay(LimitScope),
    Down,
    Place,
    Broken,
}

/// One row.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) name: &'static str,
    /// Of these providers only; empty: of any.
    pub(super) kinds: &'static [ProviderKind],
    /// With one of these statuses (a digit alone is its hundred, 0 an error in a success that claims none); empty: any.
    pub(super) statuses: &'static [u16],
    /// With one of these codes, in any case of letters, `*` for anything; empty: any.
    pub(super) codes: &'static [&'static str],
    /// With one of these texts (small letters) in the message; empty: any. `^` is the message's start, `<` a web page.
    pub(super) texts: &'static [&'static str],
    pub(super) means: Means,
}

impl Rule {
    /// The row fits; gives the code that made it fit, or an empty one.
    pub(super) fn fits<'c>(
        &self,
        kind: ProviderKind,
        status: u16,
        codes: &'c [String],
        text: &str,
        page: bool,
    ) -> Option<&'c str> {
        let has_status =
            |wanted: &u16| *wanted == status || (1..=9).contains(wanted) && *wanted == status / 100;
        let has_text = |wanted: &&str| match wanted.strip_prefix('^') {
            Some(start) => text.starts_with(start),
            None if *wanted == "<" => page,
            None => text.contains(wanted),
        };
        let others = (self.kinds.is_empty() || self.kinds.contains(&kind))
            && (self.statuses.is_empty() || self.statuses.iter().any(has_status))
            && (self.texts.is_empty() || self.texts.iter().any(has_text));
        if !others {
            return None;
        }
        if self.codes.is_empty() {
            return Some("");
        }
        self.codes
            .iter()
            .find_map(|wanted| codes.iter().find(|code| glob(wanted, code)))
            .map(String::as_str)
    }
}

/// Whether a code is one of the table's own words, or a number: no caller's.
pub(super) fn is_known(code: &str) -> bool {
    let named = |rule: &Rule| {
        rule.codes
            .iter()
            .any(|known| known.eq_ignore_ascii_case(code))
    };
    code.parse::<u16>().is_ok() || RULES.iter().any(named)
}

/// `*` is anything; letters in any case.
fn glob(pattern: &str, text: &str) -> bool {
    let Some((head, tail)) = pattern.split_once('*') else {
        return pattern.eq_ignore_ascii_case(text);
    };
    let Some(mut rest) = text
        .get(..head.len())
        .filter(|start| start.eq_ignore_ascii_case(head))
        .map(|_| &text[head.len()..])
    else {
        return false;
    };
    loop {
        if glob(tail, rest) {
            return true;
        }
        let Some(letter) = rest.chars().next() else {
            return false;
        };
        rest = &rest[letter.len_utf8()..];
    }
}

macro_rules! rules {
    ($(($name:literal, [$($kind:ident),*], [$($status:literal),*], [$($code:literal),*], [$($text:literal),*], $means:expr)),* $(,)?) => {
        &[$(Rule {
            name: $name,
            kinds: &[$(ProviderKind::$kind),*],
            statuses: &[$($status),*],
            codes: &[$($code),*],
            texts: &[$($text),*],
            means: $means,
        }),*]
    };
}

use Means::{
    Broken, Dead, Denied, Down, Fault, FaultHere, Limited, LimitedAsSaid, PacificDay, Place, Quota,
};

/// The row of a 403 without a word of why.
pub(super) const UNSAID: &str = "forbidden";

pub(super) const RULES: &[Rule] = rules! {
    // --- Gemini and Vertex: a revoked key is a 400, a daily quota looks like a rate limit ------------------------------
    ("google-key-invalid", [Gemini, Vertex], [], ["API_KEY_INVALID", "API_KEY_SERVICE_BLOCKED", "SERVICE_DISABLED", "CONSUMER_SUSPENDED", "CONSUMER_INVALID", "ACCOUNT_STATE_INVALID"], [], Dead),
    ("google-key-text", [Gemini, Vertex], [400, 403], [], ["^api key not valid", "^api key expired", "^api key not found", "^your api key was reported as leaked", "^permission denied: consumer"], Dead),
    ("google-key-place", [Gemini, Vertex], [403], ["API_KEY_IP_ADDRESS_BLOCKED", "API_KEY_HTTP_REFERRER_BLOCKED"], [], Place),
    // A file or tuned model of another project, or a name that was made up: whose it is depends on the key.
    ("google-resource", [Gemini, Vertex], [403], [], ["^you do not have permission to access", "or it may not exist"], FaultHere),
    ("google-region", [Gemini, Vertex], [400, 403], [], ["^user location is not supported", "^gemini api free tier is not available in your country"], Place),
    ("google-day-model", [Gemini, Vertex], [429], ["*PerDay*PerModel*", "*PerModel*PerDay*"], [], PacificDay(Model)),
    ("google-day", [Gemini, Vertex], [429], ["*PerDay*"], [], PacificDay(Key)),
    ("google-minute-model", [Gemini, Vertex], [429], ["*PerMinute*PerModel*", "*PerModel*PerMinute*"], [], Limited(Model)),
    ("google-minute", [Gemini, Vertex], [429], ["*PerMinute*"], [], Limited(Key)),
    ("google-billing", [Gemini, Vertex], [403, 429], ["BILLING_DISABLED", "INSUFFICIENT_*_CREDITS_BALANCE"], [], Quota(Key)),

    // --- Anthropic: an empty account and a disabled organisation are 400s ----------------------------------------------
    ("anthropic-credit", [], [400, 402, 403, 429], [], ["^your credit balance is too low"], Quota(Key)),
    ("anthropic-usage-limit", [], [400, 403, 429], [], ["^you have reached your specified api usage limits"], Quota(Key)),
    ("anthropic-organization", [Anthropic, Bedrock, Vertex], [400, 403], [], ["^this organization has been disabled", "^oauth authentication is currently not"], Dead),
    ("anthropic-place", [Anthropic], [403], ["forbidden"], ["^request not allowed"], Place),
    ("anthropic-permission", [Anthropic], [403], ["permission_error"], [], Denied),
    // The limits are the organisation's, but each model has its own.
    ("anthropic-rate-model", [Anthropic], [429], ["rate_limit_error"], ["tokens per minute", "requests per minute", "model:"], Limited(Model)),
    ("anthropic-rate", [Anthropic], [429], ["rate_limit_error"], ["account", "concurrent connections"], Limited(Key)),
    ("overloaded", [], [], ["overloaded_error", "engine_overloaded_error", "service_tier_capacity_exceeded", "capacity_exceeded", "ServerOverloaded", "ModelLoadingError"], [], Down),
    ("overloaded-text", [], [429, 498, 503], [], ["currently overloaded", "service tier capacity exceeded"], Down),

    // --- Bedrock: the class is in the error's type ---------------------------------------------------------------------
    ("bedrock-clock", [Bedrock], [400, 403], ["InvalidSignatureException", "SignatureDoesNotMatch"], ["signature expired", "signature not yet current"], Down),
    ("bedrock-key", [Bedrock], [], ["UnrecognizedClientException", "InvalidSignatureException", "SignatureDoesNotMatch", "InvalidClientTokenId", "ExpiredTokenException", "ExpiredToken", "MissingAuthenticationTokenException", "IncompleteSignatureException", "UnauthorizedException"], [], Dead),
    ("bedrock-bearer", [Bedrock], [403], ["AccessDeniedException"], ["^authentication failed", "bearer token"], Dead),
    ("bedrock-model", [Bedrock], [403], ["AccessDeniedException"], [], Denied),
    ("bedrock-use-case", [Bedrock], [404], ["ResourceNotFoundException"], ["use case details have not been submitted"], Denied),
    ("bedrock-region", [Bedrock], [400], ["ValidationException"], ["^access to anthropic models is not allowed from unsupported countries"], Place),
    ("bedrock-day", [Bedrock], [429], ["ThrottlingException"], ["too many tokens per day"], Quota(Model)),
    ("bedrock-quota", [Bedrock], [], ["ServiceQuotaExceededException"], [], Limited(Model)),
    ("bedrock-throttled", [Bedrock], [], ["ThrottlingException"], [], Limited(Model)),
    ("bedrock-invalid", [Bedrock], [], ["ValidationException"], [], Fault),
    ("bedrock-model-failed", [Bedrock], [], ["ModelErrorException", "ModelTimeoutException", "ModelNotReadyException", "ModelStreamErrorException", "InternalServerException", "ServiceUnavailableException"], [], Down),

    // --- Azure ---------------------------------------------------------------------------------------------------------
    ("azure-network", [Azure], [403], [], ["virtual network", "public access is disabled", "private endpoint"], Place),
    ("azure-deployment", [Azure], [404], ["DeploymentNotFound"], [], FaultHere),

    // --- Qwen: `insufficient_quota` is its name for the limit of tokens per minute --------------------------------------
    ("qwen-arrears", [Qwen], [], ["Arrearage"], [], Quota(Key)),
    ("qwen-free-tier", [Qwen], [], ["AllocationQuota.FreeTierOnly"], [], Quota(Model)),
    ("qwen-limited", [Qwen], [429], ["insufficient_quota", "Throttling*", "limit_requests", "limit_burst_rate"], [], Limited(Model)),
    ("qwen-model", [Qwen], [403], ["Model.AccessDenied", "AccessDenied.Unpurchased", "access_denied"], [], Denied),
    ("qwen-workspace", [Qwen], [403], ["Workspace.AccessDenied"], [], Dead),

    // --- Zhipu: numbers, mostly under 429 ------------------------------------------------------------------------------
    ("zhipu-key", [ZhipuAi], [], ["1000", "1001", "1002", "1003", "1004", "1110", "1111", "1112", "1121"], [], Dead),
    ("zhipu-balance", [ZhipuAi], [], ["1113", "1308", "1309", "1310"], [], Quota(Key)),
    ("zhipu-day", [ZhipuAi], [], ["1304"], [], Quota(Model)),
    ("zhipu-limited", [ZhipuAi], [], ["1302", "1303", "1305"], [], Limited(Model)),
    ("zhipu-fair-use", [ZhipuAi], [], ["1313"], [], Limited(Key)),
    ("zhipu-model", [ZhipuAi], [], ["1220", "1311"], [], Denied),
    ("zhipu-fault", [ZhipuAi], [], ["1210", "1211", "1212", "1213", "1214", "1215", "1221", "1222", "1261", "1300", "1301"], [], Fault),
    ("zhipu-down", [ZhipuAi], [], ["500", "1120", "1200", "1230", "1234"], [], Down),

    // --- MiniMax: 200, and a number in `base_resp` ---------------------------------------------------------------------
    ("minimax-key", [MiniMax], [], ["1004", "2049"], [], Dead),
    ("minimax-balance", [MiniMax], [], ["1008", "1028", "1030", "2056"], [], Quota(Key)),
    ("minimax-usage-limit", [MiniMax], [429], [], ["^usage limit exceeded"], Quota(Key)),
    ("minimax-limited", [MiniMax], [], ["1002", "1039", "2045"], [], Limited(Model)),
    ("minimax-connections", [MiniMax], [], ["1041"], [], Limited(Key)),
    ("minimax-plan", [MiniMax], [], ["2061"], [], Denied),
    ("minimax-fault", [MiniMax], [], ["1026", "1027", "1042", "1043", "1044", "2013", "2037", "2038", "2039"], [], Fault),
    ("minimax-down", [MiniMax], [], ["1000", "1001", "1013", "1024", "1033"], [], Down),

    // --- Baidu: `error_code` of the first version, words in the second ---------------------------------------------------
    ("baidu-key", [Baidu], [], ["13", "14", "15", "110", "111", "invalid_iam_token", "iam_certification_failed"], [], Dead),
    ("baidu-quota", [Baidu], [], ["17", "19"], [], Quota(Key)),
    ("baidu-limited", [Baidu], [], ["4", "18", "336501", "336502", "rpm_rate_limit_exceeded", "tpm_rate_limit_exceeded"], [], Limited(Model)),
    ("baidu-permission", [Baidu], [], ["6"], [], Denied),
    ("baidu-fault", [Baidu], [], ["3", "100", "336001", "336002", "336003", "336004", "336006", "336007", "336103", "336104"], [], Fault),
    ("baidu-down", [Baidu], [], ["1", "2", "336000", "336100"], [], Down),

    // --- Doubao (Volcengine Ark) ---------------------------------------------------------------------------------------
    ("doubao-overdue", [Doubao], [], ["AccountOverdueError", "OperationDenied.ServiceOverdue"], [], Quota(Key)),
    ("doubao-trial", [Doubao], [], ["QuotaExceeded", "SetLimitExceeded"], [], Quota(Model)),
    ("doubao-account-limited", [Doubao], [], ["AccountRateLimitExceeded"], [], Limited(Key)),
    ("doubao-limited", [Doubao], [], ["RateLimitExceeded.*", "ModelAccount*RateLimitExceeded", "InflightBatchsizeExceeded"], [], Limited(Model)),
    ("doubao-model", [Doubao], [], ["ModelNotOpen", "InvalidEndpointOrModel.ModelIDAccessDisabled", "InvalidEndpoint.ClosedEndpoint", "OperationDenied.ServiceNotOpen", "AccessDenied"], [], Denied),
    ("doubao-unclear", [Doubao], [404], ["InvalidEndpointOrModel.NotFound", "InvalidEndpoint.NotFound"], [], FaultHere),

    // --- others, each with its own --------------------------------------------------------------------------------------
    ("grok-key", [Grok], [400], [], ["^incorrect api key provided"], Dead),
    ("grok-credit", [Grok], [402, 403, 429], [], ["used all available credits", "run out of credits", "doesn't have any credits"], Quota(Key)),
    ("grok-content", [Grok], [403], [], ["violates usage guidelines", "content violates"], Fault),
    ("groq-restricted", [Groq], [], ["organization_restricted"], [], Dead),
    ("groq-spend", [Groq], [], ["blocked_api_access"], [], Quota(Key)),
    ("openrouter-key-limit", [OpenRouter], [403], [], ["^key limit exceeded"], Quota(Key)),
    ("openrouter-moderation", [OpenRouter], [403], [], ["moderation", "flagged"], Fault),
    ("openrouter-unaffordable", [OpenRouter], [402], [], ["or fewer max_tokens", "prompt tokens limit exceeded"], FaultHere),
    ("openrouter-free-day", [OpenRouter], [429], [], ["free-models-per-day"], Quota(Model)),
    ("openrouter-upstream", [OpenRouter], [429], [], ["provider returned error", "rate-limited upstream"], Limited(Model)),
    ("cohere-trial-month", [Cohere], [429], [], ["api calls / month"], Quota(Key)),
    ("cohere-trial", [Cohere], [429], [], ["trial key"], Limited(Key)),
    ("together-credit", [TogetherAi], [402, 403, 429], [], ["credit limit exceeded"], Quota(Key)),
    ("together-rate", [TogetherAi], [429], ["credit_limit"], [], Limited(Key)),
    ("fireworks-suspended", [Fireworks], [403, 412], [], ["is suspended"], Quota(Key)),
    ("github-model", [GitHub], [429], ["RateLimitReached"], ["userbymodelby"], Limited(Model)),
    ("github-key", [GitHub], [429], ["RateLimitReached"], [], Limited(Key)),
    ("moonshot-limited", [Moonshot], [429], ["rate_limit_reached_error"], [], Limited(Key)),

    // --- any provider, by code: most speak OpenAI's words ----------------------------------------------------------------
    ("quota", [], [400, 401, 402, 403, 429, 0], ["insufficient_quota", "exceeded_current_quota_error", "billing_hard_limit_reached", "billing_not_active", "billing_error", "CreditsError", "insufficient_balance"], [], Quota(Key)),
    ("quota-text", [], [401, 403, 429, 0], [], ["^insufficient balance", "^insufficient credits", "^you exceeded your current quota", "balance is insufficient", "余额不足"], Quota(Key)),
    ("place", [], [400, 401, 403, 0], ["unsupported_country_region_territory", "ip_not_authorized", "RegionError"], [], Place),
    ("place-text", [], [403], [], ["country, region", "not available in your country", "not available in your region", "your ip", "ip address"], Place),
    // Larger than the limit itself: no waiting helps, and another account may have a higher limit.
    ("too-large-for-limit", [], [413, 429], [], ["^request too large for"], FaultHere),
    ("model-verified", [], [400, 403, 404], [], ["^your organization must be verified"], Denied),
    ("model-unclear", [], [403, 404], [], ["or you do not have access", "or permission denied", "project does not have access"], FaultHere),
    ("model-denied", [], [403, 404], ["model_not_found", "no_access", "model_permission_blocked_*"], ["not have access to model", "no access to model", "blocked at the"], Denied),
    ("deactivated", [], [400, 403], ["account_deactivated", "organization_deactivated", "key_disabled"], [], Dead),

    // --- an error within a success, by its type: there is no status to go by ---------------------------------------------
    ("inside-fault", [], [0], ["invalid_request_error", "BadRequestError", "invalid_parameter_error", "InvalidParameter*", "content_filter*", "context_length_exceeded", "invalid_prompt", "DataInspectionFailed", "data_inspection_failed"], [], Fault),
    ("inside-key", [], [0], ["authentication_error", "invalid_api_key", "InvalidApiKey", "UNAUTHENTICATED", "AuthenticationError"], [], Dead),
    ("inside-denied", [], [0], ["permission_error", "PERMISSION_DENIED"], [], Denied),
    ("inside-limited", [], [0], ["rate_limit_error", "rate_limit_exceeded", "rate_limited", "RESOURCE_EXHAUSTED", "Throttling*"], [], LimitedAsSaid),
    ("inside-other", [], [0], [], [], Down),

    // --- any provider, by status ----------------------------------------------------------------------------------------
    ("page-forbidden", [], [403], [], ["<"], Place),
    ("unauthorized", [], [401], [], [], Dead),
    ("payment", [], [402], [], [], Quota(Key)),
    ("forbidden", [], [403], [], [], Denied),
    ("timeout", [], [408, 409, 424, 425, 407], [], [], Down),
    ("limited", [], [429], [], [], LimitedAsSaid),
    ("legal", [], [451], [], [], Place),
    ("fault", [], [4], [], [], Fault),
    ("down", [], [5], [], [], Down),
    ("redirect", [], [], [], [], Broken),
};
