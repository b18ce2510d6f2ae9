"""Words that are no part of a person's name when they stand with a capital: bodies, offices, law, medicine, everyday.

What belongs here: words of letters and official texts in small letters, for any country. Some are names too ("Grant",
"Church"): how they are used is in `evidence.py`. What does not: places (`world_places.py`), words that cut every run of
capitalised words (`gazetteer.STOP_WORDS`).
"""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


BODIES = _words(
    """
    academies academy administration affairs agencies agency alliance archive archives armed army arts assembly
    association associations asylum bakery ballet bancorp bank banks barracks battalion board boards books
    borough brewery brigade broadcaster broadcasting bureau cabinet campus capital catering cathedral center
    centre centres chamber chambers chapel charities charity church churches cinema circuit cities city civic
    cleaning clinic clinics cloud club clubs coalition college colleges command commission commissioner
    commissions committee committees commons commonwealth communications communities community companies company
    computing confederation conference congregation congress consortium constabulary constituencies constituency
    construction consulate convent corporation corps council councils counties county courier court courts crown
    department departments depot design digital diocese directorate directorates district districts division
    divisions duchy electronics embassies embassy emirate empire energy enterprise entertainment establishment
    estate estates events exchange executive executives express faculties faculty federation finance financial
    fleet foods force forces forum foundation foundations freight furniture gallery garage garrison gas
    government governments guard guild headquarters healthcare heritage holdings homes hospice hospital
    hospitals hotels household housing inquest inspectorate institute institutes institution institutions
    insurance intelligence interiors international investments jobcentre jobcentres judiciary kingdom
    laboratories laboratory labs league legion leisure libraries library logistics lords magazine magistrates
    management manufacturing maritime market markets mechanism media metro metrolink militia ministries ministry
    mission mosque motors municipality museum museums music nations navy network networks news nurseries nursery
    observatory ofcom office offices ofgem ofqual ofsted ofwat oil ombudsman opera operator operators orchestra
    organics organisation organisations organization organizations packaging panel parish parliament parliaments
    parties partners partnership partnerships party peers petroleum pharma pharmaceuticals pharmacy pictures
    plastics police polytechnic post power practice press printing prison prisons productions program programme
    programmes programs properties prosecution province provinces publishing quango rail railfreight railway
    railways realm records recruitment regiment region regions registry regulator regulators rental republic
    research reservation restaurants retail robotics school schools secretariat sector sectors security
    semiconductor senate senedd service services settlement shipping societies society solutions squadron
    stadium state states station stations stores studios supermarket supplies surgeries surgery synagogue
    syndicate taskforce team teams tech telecom telecommunications telecoms television temple territories
    territory textiles theatre theatres times today town towns township trade trading transport transportation
    travel treasury tribunal tribunals trust trusts union unions united universities university utilities
    ventures village villages wards water wealth wholesale wireless works workshop yard zoo
    """
)

OFFICES = _words(
    """
    accountant actor actress administrator admiral adviser advisers advisor advisors advocate ambassador analyst
    apprentice archbishop archdeacon architect archivist artist assessor assistant attache attorney auditor
    auditors author bailiff baker baron baroness barrister bishops bricklayer brigadier broker cardinal
    caretaker carpenter cashier caterer chair chairman chairperson chairs chairwoman chancellor chaplain chief
    chiefs choreographer cinematographer clergyman clerks colonel comedian commandant commander commissioner
    commissioners commodore composer comptroller conductor constable consul consultant consultants contractor
    controller convenor cook coordinator coroner coroners corporal councillor councillors counsel counsellor
    counsellors countess courtier crown curator dame dealer dean decorator delegate delegation dentist dentists
    deputies deputy designer detective developer dietitian diplomat diplomats director directors doctor doctors
    doorman draftsman driver duchess duke earl echocardiographer economist editor electrician emir emperor
    engineer engineers envoy envoys epidemiologist excellency farmer farmers farrier fellow fellows firefighter
    firefighters fireman fitter florist foreman gardener general generals geologist glazier governor governors
    guardian gynaecologist hairdresser headmaster headteacher headteachers highness historian hon honourable
    inspector inspectorate inspectors instructor interpreter investigator investigators janitor jeweller joiner
    journalist journalists judge judges juror justices kings knight ladies lady landlord landlords lawyer
    lawyers lecturer librarian lieutenant locksmith lord machinist magistrate majesty major manager managers
    marshal mayor mayors mechanic mediator medic member members merchant midwife midwives minister ministers
    monarch musician nobleman notary nurse nurses nutritionist officer officers official officials operative
    optician orderly painter paramedic paramedics parliamentarian pastor patriarch pediatrician peer permanent
    photographer physician physicians physicist physiotherapist pilot pilots plasterer plumber policeman
    policewoman pontiff pope porter postman practitioner practitioners premier president presidents priest
    primate prime princess principal prisoner prisoners private producer professor professors programmer
    prosecutor prosecutors provost psychiatrist psychologist publisher queens rabbi radiographer rapporteur rear
    receptionist rector referee registrar reporter representative representatives researcher researchers
    reverend reviewer roofer royal rt sailor salesman scientist scientists seamstress secretaries secretary
    seller senator senators sergeant sheriff shopkeeper singer solicitor solicitors sonographer speaker
    specialist specialists spokesman spokesperson spokeswoman statistician steward stewardess superintendent
    supervisor surgeon surgeons surveyor tailor teacher teachers technician technologist technologists therapist
    therapists toolmaker trainer translator treasurer trustee trustees tutor undersecretary veterinarian vicar
    viceroy waiter waitress warden wardens warrant welder worker workers writer
    """
)

LAW_AND_POLICY = _words(
    """
    abatement abolition abstract access accident accidents account accountability accounts acquisition act
    action actions acts adjournment adoption advice agenda agreement agreements aid aims allocation allowance
    allowances amendment amendments analysis annex annexe antiship appeal appeals appendix application
    applications appointment appointments apprenticeship apprenticeships appropriation approval arbitration area
    areas arrangement arrangements arrest arrested article assault assessment assessments asset assets assurance
    attendance audit award awards background bail ballot ban bans barrier barriers benchmark benefit benefits
    bereavement bid bill bills birth bond bonds brief briefing budget budgets bulletin bureaucracy bursary
    business businesses bylaw campaign campaigns care carers case cases cash category caution caveats census
    certificate certificates cessation challenge change changes chapter charge charged charges charter childcare
    children citizen citizens citizenship claim claims clause clauses climate code codes codex collection
    commencement commerce commitment commitments communication communique compact compensation competition
    complaint complaints compliance concession concessions condition conditions conduct confidence conflict
    consent conservation constitution consultation consultations consumer consumers contact content contract
    contracts contribution contributions control convention conventions conviction convictions copyright core
    correspondence corruption cost costs council covenant credit credits crime crimes criminal crisis criteria
    culture curriculum custody customs data database date deadline debate debates debt debts decision
    declaration decree deduction deed defence defense deficit definition delegation delivery demand demands
    democracy deployment deposit deposited deposits derogation design designation detection detention
    development devolution dialogue directive directives disabilities disability discharge disclosure
    discrimination discussion discussions dispensation displacement dispute disputes document documents draft
    draw drawdown dues duties duty economy edition education effect efficiency election elections elective
    eligibility emergencies emergency emissions employee employees employer employers employment enforcement
    engagement enquiries enquiry entitlement entry environment equality equity evidence examination example
    exams exception exclusion exemption exercise expenditure expenses export exports extension extinction
    extradition facilities facility fact factsheet families family fee fees figures file files findings fines
    firearms fiscal flood flooding floods food form forms formula foundation framework fraud freedom fuel fuels
    fund funding funds fungible gazette gender goal goals goods governance grant grants green group groups
    guarantee guidance guide guideline guidelines handbook harassment hazard hazards health hearing hearings
    history home homelessness homeworkers hour hours human hygiene identity immigration impact implementation
    import imports improvement incentive incentives incident incidents inclusion income index indicator
    indictment industries industry inflation information infrastructure initiative initiatives injuries injury
    innovation inquiries inquiry inspection inspections instruction instructions instrument integrated
    integration interest interests intervention introduction investigated investigation investigations
    investment invoice issue issues job jobs judgement judgment judicial jurisdiction jury justice key knowledge
    labour land language law laws lease leave legacy legislation lending lessons letter letters level levelling
    levels levies levy liabilities liability liberties licence licences license licensing life line lines list
    lists literacy living loan loans lobby local location long main maintenance mandate mandatory manifesto
    manual maternity matrix measure measures mediation meeting meetings memo memorandum mental method
    methodology methods migration minimum minute minutes missile missiles mobility model module money mortgage
    motion motions movement national nationality neighbourhood non north northern notice notices number numbers
    nutrition obligation occupation offence offences offender offenders operation operations opinion option
    options order orders ordinance outcome outcomes output outreach overview owner ownership package paper
    papers paragraph parking parole participation passport passports patent patents paternity pathway pathways
    patient patients pay payment payments penalties penalty pension pensions people performance period
    permission permit permits personal petition phase philosophy pilot plan planning plans plate playground
    policies policy poll pollution portal portfolio portrait position poverty powers precept preparation
    presidency prevention price prices principle principles priorities priority privacy probation procedure
    procedures proceedings process procurement product products profile profit prohibition project projects
    promotion proof property proposal proposals protection protocol protocols provision provisions public
    publication publications purchase purpose qualification quality quarter quarterly question questions quota
    quotas racism rate rates ratio reassessment reassessments rebate receipt recommendation recommendations
    reconciliation record recovery recycling reduction reference referendum reform reforms refuge refugee
    refugees refund register registration regulation regulations rehabilitation relations relief remedy
    remuneration renewal rent renters reoffenders repayment repeal reply report reports request requests
    requirement requirements resettlement residence residents resilience resolution resolutions resource
    resources response responses responsibility results resume retirement retrofit return returns revenue
    revenues review reviews revision reward right rights risk risks road roads rule rules rural safeguarding
    safety salaries salary sale sales sanction sanctions schedule scheme schemes scope scrutiny second section
    sections seizure select sentence sentences sentencing sexual shares sickness signature skills slip slot
    social software sound south southern special speech spending sponsorship staff standard standards standing
    statement statements statistics status statute statutory steering step steps stimulus strategic strategies
    strategy structure student students study subject submission subsidies subsidy substance suite summary
    summit supplement supply support surplus surveillance survey surveys suspension sustainability system
    systems table target targets tariff tariffs task tax taxation taxes tenancies tenancy tenant tenants tender
    tenders tenure term terms test tests text theft thematic theme third threat timetable timetabled title
    tobacco token tokens toll topic tourism traffic training transaction transfer transition transparency
    treaties treaty trial trials turnover unemployment update upgrade urban usage vacancies vacancy validity
    valuation value vapes vaping variant vat vehicle vehicles verdict version veto victims view violence visa
    visas volume vote votes voucher vouchers wage wages waiver warning warrants warranty waste welfare west
    western white witness witnesses workforce workplace year zone zones
    """
)

MEDICINE = _words(
    """
    abortion addiction adhd aids allergies allergy alzheimer alzheimers amputation anaemia anaesthesia
    antibiotics antibodies arthritis asbestosis asthma atrophy autism autoimmune bacteria biopsy bipolar bladder
    blindness blood bowel brain breast bronchitis cancer cancers cannabis cardiac cardiology cardiovascular
    cataract cerebral cervical chemotherapy chickenpox chikungunya cholera cholesterol chronic circulatory
    cirrhosis coeliac colitis colorectal coma complication contraception coronavirus covid cramp crohn crohns
    cystic deafness dementia dengue dental dentistry depression dermatitis dermatology diabetes diabetic
    diagnosis diagnostic diagnostics dialysis diarrhoea diphtheria disease diseases disorder disorders down
    dyslexia dystrophy ear ebola eczema emphysema encephalitis endemic endometriosis epidemic epilepsy epileptic
    fertility fever fibromyalgia fibrosis flu fracture gastroenteritis genetic genetics genome glaucoma
    gonorrhoea gout haemophilia headache heart hepatitis hernia herpes hiv hodgkin hormone huntington
    hypertension hypothermia immune immunisation immunodeficiency implant infection infections infectious
    infertility inflammatory influenza inoculation insomnia insulin intensive jaundice kidney leprosy leukaemia
    leukemia lisdexamfetamine listeria liver lung lupus lyme lymphoma malaria malnutrition maternity measles
    medication medicine medicines melanoma meningitis menopause methadone midwifery migraine miscarriage
    monkeypox mouth mpox mri mumps muscular mutation myalgic myeloma narcolepsy neonatal neurological neurology
    neuropathy norovirus nose nursing obesity obstetrics oncology operation ophthalmology opioid organ
    orthopaedic osteoarthritis osteoporosis ovarian overdose paediatric paediatrics palliative pancreatic
    pandemic paralysis parkinson parkinsons pathogen pathology perinatal pertussis plague pneumonia poisoning
    polio poliomyelitis pregnancy prescription primary prostate psoriasis psychiatric psychiatry psychology
    psychosis rabies radiology radiotherapy renal respiratory rheumatism rickets rubella salmonella sars scabies
    scarlet schizophrenia sclerosis screening secondary sepsis shingles sickle skin sleep smallpox spinal stroke
    suicide symptoms syndrome syphilis tetanus therapy throat thyroid tinnitus tonsillitis toxicology transplant
    trauma tuberculosis tumour tumours typhoid typhus ulcer ultrasound urology vaccination vaccinations vaccine
    vaccines vascular virus viruses ward zika
    """
)

EVERYDAY_NOUNS = _words(
    """
    absent address again air airbus aircraft airport airports ajax album amazon ambulance amp android angels
    animal animals anniversary answer antonyms apology app apple april armoured army arrival astute attachment
    attachments august ave avenue award baby back bag ball band barrage bash battle bay bcc beach beast beauty
    bed beer best betta bibby big bike bird birthday black blade blog blue boat boeing book boot bottle box
    boxing boy boys bravo breakfast bridge bridges bro broadband bros brothers bucket building buildings burger
    bus buses button bye bypass camp canal canyon car card castle castles cc celebration central ceremony
    challenger championship championships channel chat chef chicken chip choice christmas circle circus classic
    clear cliff cliffs coal coast coffee cold color colour comedy concert congrats congratulations conjunctions
    constitutional contest cool corner cottage country couple course crew cricket cross crossing cup daily dam
    dance dark day days deal dear december dentures departmental devil diamond diet dinner dish docks dog dome
    doorstep double dragon dream dress drive drought dub dude dust dvd earth east easter eastern eid engine
    entrance episode estuary evening event everything exam eye facebook fairy faithfully falls family fan fans
    farm farms fashion father february federal ferry festival field fields film final fire fireworks first fish
    flag flat flats flight flowers folks football ford forecast forest fort forwarded fossil free freestyle
    fresh fri friday front frost fun fwd galaxy gallery game games garden gardens gate gates gents ghost giants
    gift girl girls gold golden golf gonna good goodbye goodness goodnight google governmental grand great
    greater grocery ground grounds guanfacine guess guilty guys habitat haha hahaha hair happy harbour headrush
    heaven heights hell hellfire hero heroes hills hitachi hockey holiday holidays holocaust holy honda horse
    horses hot huawei hunger hurricane ibuprofen ice idol imma inn inner instagram ipad iphone island islands
    isle january jeep jewel joke journal july junction june jungle kaftrio kids kind kitchen kitty knights lad
    ladies lads lake lakes landing lane late launch lawn legend lessons level lighthouse lightning liner
    linkedin linux lion lions lmao lobby lock lodge lol lounge love lower luckily lunch machine magic mail maker
    makers mall mama man mansion map march marina mary's mass match may mayhem meadow meadows mega memorial
    memories men mess message microsoft midnight mile military mill mills miner mini ministerial mirror mix
    mixtape mobile mom moment moments mon monday moon moor moorland morning morphine mother motorway mount
    mountain mountains movie movies mum municipal nature netflix newspaper nice night nights nissan north
    north-east north-west northeast northwest november nuff object ocean october old omg online opening original
    orkambi outdoor outer pack palace paracetamol parade paradise park parks parliamentary partner pass path
    peace peak pier pizza place places plain plains plant platform play player players plaza pleasure pleasures
    plus pool pop port ports premiere presidential prize proms provincial pub puppy quick race racing radio
    railway rain range ranger rangers rap re ready real rebellion received red reef regards regional rehearsal
    reservoir resort resorts restaurant revenge ride ring rings river rivers road rock rofl room route row
    saints sale salon samsung sand sat saturday sauce save scale school sea season seat sent september shelter
    ship ships shop shopping shops shore show shows shuttle siemens sign silver sincerely sister sky slope snow
    soccer song songs soon soul south south-east south-west southeast southwest space spring squad square stage
    stairs star stars start step stop stories storm story stream street streets studio style subject summer
    summit sun sunday sunset super surf sweet swimming symkevi tank tanks tea telescope tempest tent terrace
    tesla texts thanks thing things thu thunder thursday ticket tickets tiger tigers tiktok time tip today
    tonight tool tooth tour tower towers toyota tracks trail train trains tree trees trident trip trophy truck
    truth tryna tube tue tuesday tunnel twitter typhoon uber unit universe upgrade upper vacation valley vampire
    van vanguard vehicles via victory video viewer viewers villa viva volcano wagon walk wall wants war warfarin
    warm wars wash watch waterfall waters way weather web website wed wedding week weekend welcome west western
    wetlands wharf whatsapp wheel wheels wife wild wildlife win wind windows winds wine winner winter wish women
    wonder wood woodland woods wool word words work world worlds wtf xoxo xxx yay yeah yes yo yours youth
    youtube zero
    """
)

TITLE_ABBREVIATIONS = _words(
    """
    CEO CFO COO CTO DC DI DJ DR DS DUDE HE HH HM HRH KC MC MEP MP MR MRS MS MSP PC PM QC RT VJ VP
    """
)

SITES = _words(
    """
    airport apartments avenue bay beach boulevard bridge bypass calle camp canal castle cliff cliffs coast copse
    corner court cove crescent crossing dam docks drive estuary extensions fair falls farm fen ferry fjord flats
    forest fort garden gardens gate gates glen green grove harbour heights hills island islands isle junction
    lake lakes lane line lodge mall manor marina market meadow meadows mill moor motorway mount mountain
    mountains palace parade park parks pass path pier place plains platz plaza point port quay rapids reef
    reservoir resort ridge river rivers road row rua rue sands shore shores square station strasse street
    streets suite summit terrace tower towers town tunnel unit vale valley via viaduct village wetlands wharf
    woodland woodlands works yard
    """
)

LETTERS_BEHIND_NAMES = _words(
    """
    ba bsc cbe ceng cpa dds dmd dvm esq frcp frcs hon kc mba mbe md mep mp mrcp msc msp obe phd qc rn rt
    """
)

SURNAMES_TOO = _words(
    """
    bill birth bond case cash chapter charge core cost court credit day draft family field flood form fund grant
    green hand hazard home hunt key land language law laws leave letter long main moody north page pilot plan
    price public ready record reform rich risk rule sale short slip south special speech steer stone street
    summary target term test title toll vale value ward west white will wise wood york young
    """
)

# Offices and sites by which so many families are called that a given name before one is a person.
MANY_FAMILIES = _words(
    """
    baker banks barker bishop bridges brook brooks butcher butler carpenter castle chambers chandler church
    constable cook cooper court cross dean falls field fields fisher forest fountain gates glen green grove hall
    heath hill holmes judge king knight lake lane lodge major marsh mason mills moor moss pope pond pool power
    prince rivers sands sergeant shepherd smith steward stone storm temple towers tower turner vale wall walls ward
    waters weaver well wells winter winters wood woods
    """
)
FAMILIES_TOO = SURNAMES_TOO | MANY_FAMILIES

# Given names of kings and saints: "Victoria Park", "Albert Hall", "George Cross".
NAMES_OF_SITES = _words(
    """
    adelaide albert alexandra andrew anne catherine charles charlotte david edward elizabeth george helen helens
    henry james john king louis margaret mark martin mary michael nelson nicholas patrick paul peter philip prince
    princess queen stanley stephen thomas victoria wellington william
    """
)

BEHIND_NAMES_OF_THINGS = _words(
    """
    accord accords act agreement airport area barracks bill border branch bridge campus city coalition college
    constituency convention county crossing disease district estate formula governorate hospital inquiry island
    junction line parish park peninsula plant port prison process program programme project protocol province
    railway region report reports review river road scheme school site station street syndrome system town treaty
    valley vehicle vehicles village virus ward workers
    """
)

BEHIND_NAMES_OF_PEOPLE = _words("affair brothers case couple families family sisters twins")

# What something with a name may be said to be: "Saltmarsh is a town".
THINGS = _words(
    """
    agency band bank book brand business charity city company film firm hotel movie newspaper novel restaurant
    series ship song startup town village
    """
)
