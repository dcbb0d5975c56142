-- Merge what several ranks of each room say, as a call of write.lua, set_prefix.lua or clear.lua for each would. Times
-- are milliseconds.
--
-- KEYS     feed, epoch, leases, owned, cleared; each: room, prefix; last: failed if a status is Failed
-- ARGV     feed_length, ttl_ms, terminal_ttl_ms, epoch_ttl_ms, nonce, rank, world_size, owner,
--          incarnation, author, policy, mode; each: ranks
-- REPLY    feed_id, epoch; each: outcomes
-- FEED     ttl_ms, status, first, rank, absent, owner, reason
-- INCLUDE  quick_loop, caller, is_lease_lost, write_room, clear_rank, create_room, store_length, limit,
--          refused, feed
--
-- For a caller that speaks for many ranks, each with a lease of its own; it has neither. A room is one read, one write
-- and one change in the feed, with all its ranks. Its arguments are its world_size, a generation, a reason and how many
-- ranks follow, each of which another; of each the names of its fields "status:<rank>" and "by:<rank>", its owner and
-- incarnation (empty without a lease), status and decode prefix length. The status is absent for a clear, which needs a
-- generation, and empty if there is only a length, which does, too. outcomes has for each rank its outcome, with the
-- codes of those scripts, and its status or what replaces it, as "<code> <text>;". For a key of another type (made by
-- hand), the error replaces them all.

local is_prefill = ARGV[12] == 'prefill'
local FIELDS_A_RANK = 10  -- what a rank costs here, counted as fields that were read
fields_read = 4 * done

-- Takes what one rank says, as words of quick_ranks.lua. Returns the outcome and the status, or what replaces it.
local function write_one(room, prefix, generation, status, length, reason)
  if status == 'absent' then return clear_rank(room, prefix, generation) end
  local current = redis.pcall('HGET', room, 'generation')
  local is_current = current and current == generation
  if length ~= '' and is_current then store_length(prefix, length, generation) end
  if status == '' then return is_current and 3 or 6, type(current) == 'table' and current end
  if status ~= 'Failed' then reason = '' end
  room_words = nil  -- of another rank
  author = (owner == '' and '' or owner .. ' ') .. 'rank ' .. rank
  local outcome, left = write_room(room, prefix, status, generation, reason, is_lease_lost(), is_prefill)
  if #new_parts > 0 then list_new_rooms() end  -- before another rank takes part
  new_parts[1], new_parts[2] = nil, nil
  return outcome, left
end

-- Returns the error, if a rank of the next room writes under a lease, and their key has another type (made by hand).
local are_leases_read = false
local function lease_error()
  for k = at + 4, are_leases_read and -1 or at + 3 + 6 * ARGV[at + 4], 6 do
    if ARGV[k + 3] ~= '' and ORDER[ARGV[k + 5]] then
      local found = redis.pcall('HEXISTS', KEYS[3], '')
      are_leases_read = true
      return type(found) == 'table' and found
    end
  end
end

for i = number, (#KEYS - 5) / 2 do
  local room, prefix, told, type_error = KEYS[i * 2 + 4], KEYS[i * 2 + 5], '', nil
  local unreadable = lease_error()
  if unreadable and i == 1 then return unreadable end
  if unreadable then break end  -- the rooms before it are done, and it is the first of the next call, which fails
  world_size = ARGV[at + 1]
  for k = at + 4, at + 3 + 6 * ARGV[at + 4], 6 do
    status_field, lease_field, owner, incarnation = ARGV[k + 1], ARGV[k + 2], ARGV[k + 3], ARGV[k + 4]
    rank = string.sub(status_field, 8)
    status_field, cleared_field, length_field = rank_fields(rank)
    local outcome, left, is_late = write_one(room, prefix, ARGV[at + 2], ARGV[k + 5], ARGV[k + 6], ARGV[at + 3])
    if type(left) == 'table' then type_error = left end
    fields_read = fields_read + FIELDS_A_RANK
    if is_late or ((outcome > 4 or outcome < 0) and ORDER[ARGV[k + 5]]) then
      refused = refused or {}
      refused[outcome] = (refused[outcome] or 0) + 1
      refused_room, refused_by = room, owner
    end
    told = told .. outcome .. ' ' .. (type(left) == 'string' and string.gsub(left, ';', ',') or '') .. ';'
  end
  at = at + 4 + 6 * ARGV[at + 4]
  reply[i + 2] = type_error or told
  if fields_read > MAX_FIELDS then break end
end
