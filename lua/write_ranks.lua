-- Merge what several ranks of each room say, as a call of write.lua or of clear.lua for each would. Times are
-- milliseconds.
--
-- KEYS     feed, epoch, leases, owned, cleared; each: room, prefix
-- ARGV     feed_length, ttl_ms, terminal_ttl_ms, epoch_ttl_ms, nonce, rank, world_size, owner,
--          incarnation, author, policy, mode; each: of_rank, of_world_size, of_owner, of_incarnation,
--          generation, status, reason, length
-- REPLY    feed_id, epoch; each: outcome, status
-- FEED     ttl_ms, status, first, rank, reason, owner
-- CODES    1 CREATED, 2 ADVANCED, 3 UNCHANGED, 4 FAILED, 5 SKIPPED, 6 STALE, 7 CLEARED, -2 LEASE,
--          -3 WORLD_SIZE, -4 CORRUPT
-- INCLUDE  group, write_group, feed
--
-- For a caller that speaks for many ranks, each with a lease of its own; it has neither. Items of one room that follow
-- each other cost little more than one: one read, one write, one change in the feed with the words of each rank. status
-- is absent for a clear, which needs a generation, and empty if there is only a decode prefix length. That is recorded
-- for the generation, before the status.

local FIRST, WIDTH, MAX_RANKS = 12, 8, 64
local reply = {false, redis.call('HGET', KEYS[2], 'epoch')}
local count = (#ARGV - FIRST) / WIDTH
local leases, names = {}, {}

local function set_caller(i)
  local at = FIRST + (i - 1) * WIDTH
  rank, world_size, owner, incarnation = ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4]
  status_field, cleared_field, length_field = rank_fields(rank)
  lease_field = 'by:' .. rank
  return ARGV[at + 5], ARGV[at + 6], ARGV[at + 7], ARGV[at + 8]
end

local function is_lost()
  return owner ~= '' and string.find(leases[owner] or '', incarnation .. ' ', 1, true) ~= 1
end

-- Returns the outcome and the status of an item; nil if the group cannot take it.
local function add(group, i)
  local generation, incoming, _, length = set_caller(i)
  local fields, is_fenced = group.fields, generation ~= ''
  local outcome
  local view = rank_view(fields.status, fields[status_field], fields[cleared_field])
  local is_current = is_fenced and fields.generation == generation
  if group.type_error then return 3, group.type_error end
  if incoming == 'absent' then
    if not is_current then return 6, view end
    if fields.world_size ~= world_size then return -3, fields.world_size or '' end
    return add_clear(group)
  end
  if group.is_clearing then return nil end
  if incoming == '' then
    outcome = is_current and 3 or 6
  elseif fields.version and not is_number(fields.version) then
    outcome, view = -4, 'version ' .. fields.version
  elseif is_fenced and (not is_current or fields[cleared_field]) then
    outcome = 6
  elseif is_lost() then
    outcome, view = -2, owner
  elseif fields.status and (fields.world_size or '') ~= world_size then
    outcome, view = -3, fields.world_size or ''
  else
    outcome, view = add_status(group, incoming, is_fenced)
  end
  if outcome and length ~= '' and is_current then add_pair(group.lengths, length_field, length) end
  return outcome, view
end

local function write_alone(room, prefix, i)
  local generation, incoming, reason, length = set_caller(i)
  author = (owner == '' and '' or owner .. ' ') .. 'rank ' .. rank
  if length ~= '' and redis.pcall('HGET', room, 'generation') == generation then
    local stored = redis.pcall('HSET', prefix, length_field, length, 'generation', generation)
    if type(stored) ~= 'table' then redis.call('PEXPIRE', prefix, ARGV[2]) end
  end
  return write_room(room, ARGV[12] == 'prefill' and prefix, incoming, generation, reason, is_lost())
end

for i = 1, count do
  set_caller(i)
  if owner ~= '' and not leases[owner] then leases[owner], names[#names + 1] = '', owner end
end
local found = #names > 0 and redis.call('HMGET', KEYS[3], unpack(names))
for i = 1, #names do leases[names[i]] = found[i] or '' end

local i = 1
while i <= count and fields_read <= MAX_FIELDS do
  local room, prefix, first = KEYS[i * 2 + 4], KEYS[i * 2 + 5], i
  names = {'status', 'generation', 'world_size', 'version', 'counts', 'replayed'}
  for at = i, math.min(i + MAX_RANKS - 1, count) do
    if KEYS[at * 2 + 4] ~= room then break end
    set_caller(at)
    local n = #names
    names[n + 1], names[n + 2], names[n + 3] = status_field, cleared_field, lease_field
  end
  local group, last = read_group(room, names), i + (#names - 6) / 3 - 1
  while i <= last and not group.is_over do
    local outcome, status = add(group, i)
    if not outcome then break end
    reply[i * 2 + 1], reply[i * 2 + 2], i = outcome, status, i + 1
  end
  if i > first then
    write_group(room, prefix, group)
  else
    reply[i * 2 + 1], reply[i * 2 + 2] = write_alone(room, prefix, i)
    i = i + 1
  end
end
